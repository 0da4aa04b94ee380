//! The only owner of bytes on disk: whole-or-not-at-all files and the formats fragscope keeps.
#![forbid(unsafe_code)]

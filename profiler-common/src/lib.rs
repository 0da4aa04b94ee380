//! Plain records shared by the BPF programs and userspace.
#![no_std]
#![forbid(unsafe_code)]

//! The walkers on images of heaps: sound ones, those that lack something, and any damage to them.

mod damage;
mod glibc;
mod jemalloc;
mod mimalloc2;
mod mimalloc3;
mod musl;
mod pymalloc;
mod tcmalloc;

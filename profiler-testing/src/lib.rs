//! For tests, benches and fuzz targets alone: what those of several crates share.
//!
//! - [`image`]: the builder of made-up memory, and what damages it;
//! - [`images`]: a small sound heap of each allocator, built on it;
//! - [`core_file`]: a small sound core file;
//! - [`child`]: children that say when they are ready, and C programs to run as such;
//! - [`trace`]: the builder of made-up recordings;
//! - [`silent_files`]: files of a file system that stops answering;
//! - [`wait`]: waiting for a state;
//! - [`calls`]: a program that calls all functions of malloc's family, and its code as it stands in memory;
//! - [`pythons`]: every Python that is there;
//! - [`heap`]: what is asserted of a walked heap;
//! - [`blocks`]: a program that knows every block it has, and the comparison of a heap with its list.
//!
//! It may panic, as tests do.

#![forbid(unsafe_code)]

pub mod blocks;
pub mod calls;
pub mod child;
pub mod core_file;
pub mod heap;
pub mod image;
pub mod images;
pub mod pythons;
pub mod silent_files;
pub mod trace;
pub mod wait;

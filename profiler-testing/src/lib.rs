//! Shared code of tests, benches and fuzz targets of several crates.
//!
//! - [`image`]: the builder of made-up memory, and ways to damage it;
//! - [`images`]: a small valid heap of each allocator, built on it;
//! - [`core_file`]: a small valid core file;
//! - [`child`]: children that report when they are ready, and C programs to run as such;
//! - [`trace`]: the builder of made-up recordings;
//! - [`silent_files`]: files of a file system that stops answering;
//! - [`wait`]: waiting for a state;
//! - [`calls`]: a program that calls all functions of the malloc family, and its code in memory;
//! - [`pythons`]: every installed Python;
//! - [`heap`]: assertions on a walked heap;
//! - [`blocks`]: a program that knows all its blocks, and the comparison of a heap with its list.
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

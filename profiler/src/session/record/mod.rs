//! Recording what a program asks of malloc.

pub mod describe;

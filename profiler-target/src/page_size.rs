//! The page size of the running kernel.

use nix::unistd::{SysconfVar, sysconf};
use profiler_core::addr::PageSize;

/// The page size of the running kernel, which applies to every live target.
pub fn page_size() -> PageSize {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
    // No machine that fragscope is compiled for has others.
    bytes.and_then(PageSize::new).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auxv::{AT_PAGESZ, auxv_value};

    #[test]
    fn it_is_what_the_kernel_tells_each_program() {
        let auxv = std::fs::read("/proc/self/auxv").expect("ours");
        assert_eq!(auxv_value(&auxv, AT_PAGESZ), Some(page_size().bytes()));
    }
}

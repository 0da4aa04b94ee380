//! What to do about a mechanism, in the words and settings of the allocator that serves malloc.
//!
//! Settings are those of glibc's manual ("Memory Allocation Tunables"), jemalloc 5's `MALLOC_CONF`,
//! mimalloc 2's and 3's environment options, and gperftools' `TCMALLOC_*` variables.

use crate::heap::Allocator;

/// The call or event that returns whole free pages.
pub(crate) fn give_back(serving: Option<Allocator>) -> &'static str {
    match serving {
        Some(Allocator::Jemalloc) => "a purge",
        Some(Allocator::Mimalloc) => "mi_collect(true)",
        Some(Allocator::Tcmalloc) => "MallocExtension_ReleaseFreeMemory()",
        _ => "malloc_trim(0)",
    }
}

/// For whole free pages that were not returned.
pub(crate) fn untrimmed(serving: Option<Allocator>) -> &'static str {
    match serving {
        Some(Allocator::Jemalloc) => {
            "They wait for their decay: an idle process purges only with \
             MALLOC_CONF=background_thread:true; dirty_decay_ms:1000,muzzy_decay_ms:0 makes it \
             sooner, at some cost in page faults."
        }
        Some(Allocator::Mimalloc) => {
            "MIMALLOC_PURGE_DELAY=0 returns them at once, at some cost in page faults."
        }
        Some(Allocator::Tcmalloc) => {
            "TCMALLOC_RELEASE_RATE=10 returns them sooner, at some cost in page faults."
        }
        _ => {
            "After each peak call ctypes.CDLL(\"libc.so.6\").malloc_trim(0). jemalloc purges such \
             pages by itself, in an idle process only with MALLOC_CONF=background_thread:true."
        }
    }
}

/// For free bytes on pages that live blocks keep.
pub(crate) fn pinned_pages(serving: Option<Allocator>) -> &'static str {
    match serving {
        Some(Allocator::Glibc) | None => {
            "No trim and no glibc setting returns them. An allocator that keeps blocks of one size \
             together pins fewer pages: LD_PRELOAD=libjemalloc.so.2 (see the bound), or restart \
             the worker after so many tasks."
        }
        Some(_) => {
            "Nothing returns them while those blocks live. This allocator keeps blocks of one size \
             together already; restart the worker after so many tasks, or shorten the lives of the \
             blocks that stay."
        }
    }
}

/// The names of the caches.
pub(crate) fn caches(serving: Option<Allocator>) -> &'static str {
    match serving {
        Some(Allocator::Glibc) | None => "tcache and fastbins",
        Some(Allocator::Jemalloc) => "thread caches (tcache)",
        Some(Allocator::Tcmalloc) => "thread, transfer and central caches",
        Some(_) => "the allocator's caches",
    }
}

/// For freed blocks in caches.
pub(crate) fn cached(serving: Option<Allocator>) -> &'static str {
    match serving {
        Some(Allocator::Glibc) | None => {
            "GLIBC_TUNABLES=glibc.malloc.tcache_count=0 gives up tcaches and glibc.malloc.mxfast=0 \
             fastbins, at some cost in speed; with fewer threads there are fewer. malloc_trim(0) \
             returns what lies in fastbins."
        }
        Some(Allocator::Jemalloc) => {
            "MALLOC_CONF=tcache_max:4096 caches small blocks only (tcache:false none), at some cost \
             in speed; fewer threads cache fewer."
        }
        Some(Allocator::Tcmalloc) => {
            "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES bounds them; fewer threads cache fewer."
        }
        Some(_) => "Fewer threads cache fewer.",
    }
}

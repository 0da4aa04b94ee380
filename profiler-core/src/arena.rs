//! Kinds of arenas, and the figures that only some allocators' arenas have.

/// Declares an enum whose values each have a name for output and files: the values, their names and
/// the list of all in one place.
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $Name:ident {
            $($(#[$doc:meta])* $Value:ident = $name:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub enum $Name {
            $($(#[$doc])* $Value,)+
        }

        impl $Name {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$Value,)+];

            /// The name in output and files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Value => $name,)+
                }
            }
        }
    };
}

named! {
    /// The role of an arena in its allocator.
    #[derive(Default)]
    pub enum ArenaKind {
        /// glibc's arena over brk, or jemalloc's first.
        #[default]
        Main = "main",
        /// glibc's arena of threads; in mimalloc 2 all segments of one thread.
        Thread = "thread",
        /// An additional arena of jemalloc; in mimalloc 3 an arena from which pages are taken.
        Arena = "arena",
        /// mimalloc 2: the segments of threads that have ended.
        Abandoned = "abandoned",
        /// mimalloc 2: segments that were given back.
        GivenBack = "given back",
        /// mimalloc 3: pages that no arena holds.
        OutsideArenas = "outside arenas",
        /// All of pymalloc's arenas of one interpreter.
        Pymalloc = "pymalloc",
        /// tcmalloc's page heap.
        Tcmalloc = "tcmalloc",
        /// musl's heap.
        Musl = "musl",
    }
}

named! {
    /// A figure of an arena, by the allocator's own name. It is in bytes unless its name says what
    /// it counts.
    pub enum ArenaFigure {
        /// glibc: bytes in threads' caches.
        TcacheBytes = "tcache_bytes",
        /// glibc: blocks in threads' caches.
        TcacheBlocks = "tcache_blocks",
        /// glibc: bytes in fastbins.
        FastbinBytes = "fastbin_bytes",
        /// glibc: blocks in fastbins.
        FastbinBlocks = "fastbin_blocks",
        /// glibc: the most that `system_mem` ever was (`max_system_mem`).
        MaxSystemBytes = "max_system_bytes",
        /// Bytes of bookkeeping: in glibc everything that is neither live, cached, free nor top,
        /// including the tcaches' own chunks; in jemalloc as counted by `stats.metadata`.
        MetadataBytes = "metadata_bytes",
        /// glibc: bytes of the tcaches' own chunks.
        TcacheStructBytes = "tcache_struct_bytes",
        /// glibc: the tcaches' own chunks.
        TcacheStructs = "tcache_structs",
        /// Bytes whose use could not be determined.
        UnknownBytes = "unknown_bytes",
        /// glibc: 1 when a thread held the arena's mutex.
        Locked = "locked",
        /// glibc: threads that use the arena (`attached_threads`).
        AttachedThreads = "attached_threads",
        /// glibc's main arena: bytes between its parts that other callers took with `sbrk`.
        ForeignSbrkBytes = "foreign_sbrk_bytes",
        /// glibc's thread arenas: heaps (`heap_info`).
        Heaps = "heaps",
        /// jemalloc: bytes of active pages (`stats.arenas.<i>.pactive`).
        ActiveBytes = "active_bytes",
        /// jemalloc: bytes of dirty pages (`pdirty`).
        DirtyBytes = "dirty_bytes",
        /// jemalloc: bytes of muzzy pages (`pmuzzy`).
        MuzzyBytes = "muzzy_bytes",
        /// Bytes kept from the kernel and not in memory (jemalloc: `retained`; mimalloc: pages that
        /// are not in use).
        RetainedBytes = "retained_bytes",
        /// jemalloc: bytes of its internal blocks (`internal`).
        InternalBytes = "internal_bytes",
        /// jemalloc: bytes that its base allocator mapped (`base`).
        BaseMappedBytes = "base_mapped_bytes",
        /// jemalloc: slabs.
        Slabs = "slabs",
        /// jemalloc: their bytes.
        SlabBytes = "slab_bytes",
        /// jemalloc: large blocks.
        LargeBlocks = "large_blocks",
        /// jemalloc: their usable bytes.
        LargeBytes = "large_bytes",
        /// jemalloc: bytes that pad them (`cache_oblivious`).
        LargePadBytes = "large_pad_bytes",
        /// tcmalloc: `pageheap_free_bytes` of its own account.
        PageheapFreeBytes = "pageheap_free_bytes",
        /// tcmalloc: `pageheap_unmapped_bytes`.
        PageheapUnmappedBytes = "pageheap_unmapped_bytes",
        /// tcmalloc: `central_cache_free_bytes`.
        CentralCacheFreeBytes = "central_cache_free_bytes",
        /// tcmalloc: `transfer_cache_free_bytes`.
        TransferCacheFreeBytes = "transfer_cache_free_bytes",
        /// tcmalloc: `current_total_thread_cache_bytes`.
        CurrentTotalThreadCacheBytes = "current_total_thread_cache_bytes",
        /// tcmalloc: threads' caches.
        ThreadCaches = "thread_caches",
        /// tcmalloc: spans.
        Spans = "spans",
        /// musl: bytes that the program asked for.
        RequestedBytes = "requested_bytes",
        /// musl: the same, for blocks with a mapping of their own.
        MappedLargeRequestedBytes = "mapped_large_requested_bytes",
        /// musl: live blocks whose requested size is unknown.
        BlocksOfUnknownRequest = "blocks_of_unknown_request",
        /// musl: groups.
        Groups = "groups",
        /// musl: groups inside a slot of another group.
        NestedGroups = "nested_groups",
        /// musl: groups in memory donated by the dynamic linker.
        DonatedGroups = "donated_groups",
        /// musl: areas of `meta` records.
        MetaAreas = "meta_areas",
        /// mimalloc: pages.
        Pages = "pages",
        /// mimalloc: blocks that another thread freed and the owner has not taken back.
        ThreadFreedBlocks = "thread_freed_blocks",
        /// pymalloc: arenas now (`# arenas allocated current`).
        ArenasAllocated = "arenas_allocated",
        /// pymalloc: total number of pools.
        PoolsTotal = "pools_total",
        /// pymalloc: pools in use.
        PoolsUsed = "pools_used",
        /// pymalloc: pools that are free.
        PoolsFree = "pools_free",
        /// pymalloc: bytes of free blocks in used pools.
        FreeBlockBytes = "free_block_bytes",
        /// pymalloc: bytes of free pools.
        FreePoolBytes = "free_pool_bytes",
        /// pymalloc: bytes of the headers of used pools.
        PoolHeaderBytes = "pool_header_bytes",
        /// pymalloc: bytes at the ends of pools that no block fits into.
        QuantizationBytes = "quantization_bytes",
        /// pymalloc: bytes lost to the alignment of arenas.
        ArenaAlignmentBytes = "arena_alignment_bytes",
        /// pymalloc: arenas ever got (`# arenas allocated total`).
        ArenasAllocatedTotal = "arenas_allocated_total",
        /// pymalloc: arenas given back (`# arenas reclaimed`).
        ArenasReclaimed = "arenas_reclaimed",
        /// pymalloc: the most arenas at once (`# arenas highwater mark`).
        ArenasHighwater = "arenas_highwater",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_figures_and_no_two_kinds_have_one_name() {
        let figures: HashSet<_> = ArenaFigure::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(figures.len(), ArenaFigure::ALL.len());
        let kinds: HashSet<_> = ArenaKind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(kinds.len(), ArenaKind::ALL.len());
    }
}

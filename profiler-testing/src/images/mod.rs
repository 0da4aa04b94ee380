//! A small valid heap of each allocator, in an image that can be damaged.

pub mod glibc;
pub mod jemalloc;
pub mod mimalloc2;
pub mod mimalloc3;
pub mod musl;
pub mod objects;
pub mod pymalloc;
pub mod tcmalloc;

use profiler_core::addr::AddrRange;
use profiler_core::allocator::{Allocator, AllocatorIdentity, Role};
use profiler_core::heap::HeapSnapshot;
use profiler_core::mimalloc;
use profiler_core::object::AllocatorObject;

use crate::image::{Damage, HeapImage, WeakPoints};

/// A sound heap of one allocator, the places where damage to it has the most effect, and its walk.
pub struct Specimen {
    /// The heap.
    pub image: HeapImage,
    /// Where damage has the most effect.
    pub weak: WeakPoints,
    /// The heaps that the walker finds in the image: none if it rejects it.
    pub walk: fn(&HeapImage) -> Vec<HeapSnapshot>,
}

/// One for each walker, and for each generation of layouts with separate code.
pub const SPECIMENS: [fn() -> Specimen; 7] = [
    glibc::specimen,
    jemalloc::specimen,
    mimalloc2::specimen,
    mimalloc3::specimen,
    musl::specimen,
    pymalloc::specimen,
    tcmalloc::specimen,
];

impl Specimen {
    /// Damages the heap and walks it.
    ///
    /// # Panics
    /// If a heap that the walk returns violates conservation.
    pub fn assert_survives(&self, damage: impl IntoIterator<Item = Damage>) {
        let mut image = self.image.clone();
        for damage in damage {
            damage.apply(&mut image, &self.weak);
        }
        for heap in (self.walk)(&image) {
            assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}

/// The walk of a mimalloc image in which the object at `path` has this version and these data.
fn walk_mimalloc(
    image: &HeapImage,
    version: &str,
    path: &str,
    data: AddrRange,
) -> Result<Vec<HeapSnapshot>, mimalloc::NotWalked> {
    let context = mimalloc::Context {
        objects: &[object(Allocator::Mimalloc, Some(version), path, vec![data])],
        python: None,
    };
    image.walk(|memory, residency| mimalloc::walk(memory, residency, &context))
}

/// The mapped object of an allocator that serves malloc in place of libc's.
fn object(
    kind: Allocator,
    version: Option<&str>,
    path: &str,
    data: Vec<AddrRange>,
) -> AllocatorObject {
    AllocatorObject {
        identity: AllocatorIdentity {
            kind: Some(kind),
            version: version.map(str::to_owned),
            object: path.to_owned(),
            in_python: false,
            role: Role::ServesMalloc,
        },
        options: Vec::new(),
        data,
    }
}

//! Call sites of allocations.

use std::io;
use std::sync::Arc;

use profiler_core::sites::{
    AGES, AtWalk, Estimate, Frame, GrowthSampling, Language, MmapThreshold, NativeSampling, Site,
    SiteFigures, SiteGrowth, Sites, SitesWalk, StackEnd,
};
use profiler_core::text::visible;

use super::wire::{Input, Wire, by_name, fields, malformed, numbered, put_framed};

by_name!(Language, "a language");
numbered!(StackEnd, "an end of a stack" {
    0 => Whole, 1 => Cut, 2 => Unreadable, 3 => NoThreadState, 4 => NoPython,
});

fields!(SiteFigures {
    samples,
    bytes,
    allocations,
    live_bytes,
    live_blocks,
    at_walk
} later { growth, samples_before_walk });
fields!(SiteGrowth {
    samples,
    grown,
    returned,
    touched
});
fields!(GrowthSampling {
    watched_ns,
    mean_bytes,
    grown_bytes,
    returned_bytes,
    touched_bytes,
    missing
} later { is_over_budget });
fields!(NativeSampling {
    copied,
    not_copied,
    unwinding_ns
} later { unread_files });
fields!(AtWalk {
    bytes,
    blocks,
    pinned_free_bytes,
    by_age
});
fields!(Site {
    stack,
    end,
    figures
});
fields!(Frame {
    language,
    function,
    file,
    line
});
fields!(SitesWalk {
    taken_at_ns,
    looked_up,
    found,
    unreadable
});

/// Sums of which none is read alone: they never grow.
impl Wire for Estimate {
    fn put(&self, out: &mut Vec<u8>) {
        self.value.put(out);
        self.variance.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(Self {
            value: f64::take(input)?,
            variance: f64::take(input)?,
        })
    }
}

/// Bytes by age, the youngest first.
impl Wire for [f64; AGES.len() + 1] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|bytes| bytes.put(out));
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut ages = [0.0; AGES.len() + 1];
        for bytes in &mut ages {
            *bytes = f64::take(input)?;
        }
        Ok(ages)
    }
}

/// Names, with harmful characters removed, whoever wrote the file.
impl Wire for Arc<str> {
    fn put(&self, out: &mut Vec<u8>) {
        crate::varint::put_text(out, self);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let text = input.text()?;
        input.memory.add(text.len() as u64)?;
        Ok(visible(text).to_string().into())
    }
}

fields!(MmapThreshold { bytes, raised_by });

/// A stack, and why it ends.
impl Wire for (Arc<[u32]>, StackEnd) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok((Wire::take(input)?, Wire::take(input)?))
    }
}

/// Indices of frames.
impl Wire for Arc<[u32]> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::put_list(self, out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        u32::take_list(input).map(Into::into)
    }
}

impl Wire for Sites {
    fn put(&self, out: &mut Vec<u8>) {
        let Self {
            sites,
            frames,
            samples,
            samples_lost,
            mean_bytes,
            sampling_ns,
            armed_ns,
            counted_bytes,
            frees_complete,
            stacks_left_out,
            no_stacks,
            walk,
            mmap_threshold,
            growth,
            native,
        } = self;
        put_framed(out, |out| {
            frames.put(out);
            sites.put(out);
            let counts = [
                samples,
                samples_lost,
                mean_bytes,
                sampling_ns,
                armed_ns,
                counted_bytes,
            ];
            counts.into_iter().for_each(|count| count.put(out));
            frees_complete.put(out);
            stacks_left_out.put(out);
            no_stacks.put(out);
            walk.put(out);
            mmap_threshold.put(out);
            growth.put(out);
            native.put(out);
        });
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut own = input.framed()?;
        let own = &mut own;
        let frames: Vec<Frame> = Wire::take(own)?;
        let sites: Vec<Site> = Wire::take(own)?;
        let read = Self {
            frames,
            sites,
            samples: Wire::take(own)?,
            samples_lost: Wire::take(own)?,
            mean_bytes: Wire::take(own)?,
            sampling_ns: Wire::take(own)?,
            armed_ns: Wire::take(own)?,
            counted_bytes: Wire::take(own)?,
            frees_complete: Wire::take(own)?,
            stacks_left_out: Wire::take(own)?,
            no_stacks: Wire::take(own)?,
            walk: Wire::take(own)?,
            mmap_threshold: Wire::take(own)?,
            // Files of before end here.
            growth: match own.rest.is_empty() {
                true => None,
                false => Wire::take(own)?,
            },
            native: match own.rest.is_empty() {
                true => None,
                false => Wire::take(own)?,
            },
        };
        let raiser = read.mmap_threshold.iter().flat_map(|of| &of.raised_by);
        let raiser = raiser.flat_map(|(stack, _)| stack.iter());
        let stacks = read.sites.iter().flat_map(|site| site.stack.iter());
        match stacks
            .chain(raiser)
            .all(|number| (*number as usize) < read.frames.len())
        {
            true => Ok(read),
            false => Err(malformed("a stack has a function that there is not")),
        }
    }
}

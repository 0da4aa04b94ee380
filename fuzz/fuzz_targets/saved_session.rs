//! Damaged or generated saved sessions: no panic, termination within the limits, and reports of
//! whatever is read.
#![no_main]

use std::io::Write;
use std::sync::Arc;

use fragscope::export::{self, Format};
use libfuzzer_sys::fuzz_target;
use profiler_core::report::FragReport;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::snapshot::{Observation, Reader, Record};

fuzz_target!(|input: &[u8]| {
    let bytes = if input.starts_with(b"FRAGSNP") {
        input.to_vec()
    } else {
        blocks(input)
    };
    let meter = Meter::new(Limits::new(Some(64 << 20), Some(64 << 20), 1 << 30), Arc::default());
    let Ok(mut reader) = Reader::new(bytes.as_slice(), meter.clone()) else {
        return;
    };
    let mut observation = Observation::default();
    while let Ok(Some(record)) = reader.next_record() {
        let sample = match record {
            Record::Observation { observation: seen, .. } => {
                observation = *seen;
                continue;
            }
            Record::Walk { sample, .. } => sample,
        };
        if let Ok(sample) = sample.sample(&meter) {
            let report = Arc::new(FragReport::from_sample(&sample));
            let points = Arc::new(observation.points.clone());
            let view = observation.clone().into_view(report, points);
            for format in Format::ALL {
                let _ = export::bytes(&view, format);
            }
        }
    }
});

/// A session of sound blocks, whose content the input chooses: two bytes of length, then as many.
fn blocks(mut input: &[u8]) -> Vec<u8> {
    let mut session = b"FRAGSNP\x01".to_vec();
    while let [low, high, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, after) = rest.split_at(len);
        input = after;
        let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("memory");
        packer.include_checksum(true).expect("memory");
        packer.write_all(content).expect("memory");
        let packed = packer.finish().expect("memory");
        session.extend(b"FSBK");
        session.extend((packed.len() as u32).to_le_bytes());
        session.extend((content.len() as u32).to_le_bytes());
        session.extend(packed);
    }
    session
}

//! Saved sessions are read back as written, as far as they are intact, and no bytes make the reader
//! panic, run on, or take more memory than allowed.

mod samples;

use std::io::Write;

use profiler_core::sample::Sample;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::snapshot::{Observation, ReadError, Reader, Record, Writer};
use proptest::collection::vec;
use proptest::prelude::*;
use samples::{observation, sample};

/// A session, and where its records begin and end.
fn written(walks: &[(Sample, Observation)], finish: bool) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    let mut writer = Writer::new(Shared(&mut bytes, &mut ends)).expect("memory");
    for (sample, observation) in walks {
        writer.walk(sample).expect("memory");
        writer.observe(observation).expect("memory");
    }
    if finish {
        writer.finish().expect("memory");
    }
    (bytes, ends)
}

/// Notes where the output was flushed, which is after each record.
struct Shared<'a>(&'a mut Vec<u8>, &'a mut Vec<usize>);

impl Write for Shared<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.1.push(self.0.len());
        Ok(())
    }
}

/// What was read: samples and observations with the number of their walk, and what was not.
#[derive(Default)]
struct Read {
    walks: Vec<(u64, Sample)>,
    observations: Vec<(u64, Observation)>,
    trouble: Option<String>,
}

fn read(bytes: &[u8]) -> Result<Read, ReadError> {
    let meter = Meter::default();
    let mut reader = Reader::new(bytes, meter.clone())?;
    let mut read = Read::default();
    while let Some(record) = reader.next_record()? {
        match record {
            Record::Walk { number, sample } => {
                let taken_at = sample.taken_at_ns()?;
                let sample = sample.sample(&meter)?;
                assert_eq!(sample.taken_at_ns, taken_at);
                read.walks.push((number, sample));
            }
            Record::Observation { walk, observation } => {
                read.observations.push((walk, *observation));
            }
        }
    }
    read.trouble = reader.trouble();
    Ok(read)
}

/// An observation as text; histograms by their values, as they have no order of their own.
fn shown(observation: &Observation) -> String {
    let mut plain = observation.clone();
    let mut values = String::new();
    if let Some(activity) = plain.activity.as_mut().map(std::sync::Arc::make_mut) {
        for histogram in [&mut activity.lifetimes, &mut activity.sizes] {
            let all = histogram.iter_recorded();
            let all = all.map(|step| (step.value_iterated_to(), step.count_at_value()));
            values += &format!("{:?} {}", all.collect::<Vec<_>>(), histogram.high());
            *histogram = hdrhistogram::Histogram::new(1).expect("a digit");
        }
    }
    format!("{plain:?} {values}")
}

fn walk() -> impl Strategy<Value = (Sample, Observation)> {
    (sample(), observation())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_session_comes_back(walks in vec(walk(), 0..4)) {
        let read = read(&written(&walks, true).0).expect("a session");
        prop_assert_eq!(read.trouble, None);
        prop_assert_eq!(read.walks.len(), walks.len());
        for (number, (sample, observed)) in (1..).zip(&walks) {
            let index = number as usize - 1;
            prop_assert_eq!(&read.walks[index], &(number, sample.clone()));
            prop_assert_eq!(read.observations[index].0, number);
            prop_assert_eq!(shown(&read.observations[index].1), shown(observed));
        }
    }

    #[test]
    fn a_session_cut_off_anywhere_gives_the_records_before(
        walks in vec(walk(), 1..4), cut: prop::sample::Index,
    ) {
        let (bytes, ends) = written(&walks, true);
        let everywhere = ends[..ends.len() - 1].iter().copied();
        for cut in everywhere.chain([cut.index(bytes.len()).max(8)]) {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let read = read(&bytes[..cut]).expect("its head is whole");
            prop_assert_eq!(read.walks.len() + read.observations.len(), whole);
            prop_assert!(read.trouble.is_some_and(|why| why.contains("cut off")));
            for (index, (number, sample)) in read.walks.iter().enumerate() {
                prop_assert_eq!(*number, index as u64 + 1);
                prop_assert_eq!(sample, &walks[index].0);
            }
        }
    }

    #[test]
    fn damage_never_gives_samples_that_were_not_written_and_is_said(
        walks in vec(walk(), 1..4), at: prop::sample::Index, flip in 1..=255u8,
    ) {
        let (mut bytes, ends) = written(&walks, true);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let Ok(read) = read(&bytes) else {
            prop_assert!(at < 8, "a damaged record does not take the others with it");
            return Ok(());
        };
        // A frame of zstd has bits that mean nothing: then all of it is there.
        let records = read.walks.len() + read.observations.len();
        prop_assert!(read.trouble.is_some() || records == 2 * walks.len());
        for (number, sample) in &read.walks {
            prop_assert_eq!(sample, &walks[*number as usize - 1].0);
        }
        // All that ends before the damage is there.
        let before = ends.iter().filter(|end| **end <= at).count();
        prop_assert!(records >= before);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let mut session = written(&[], false).0;
        session.extend(&bytes);
        read(&session).expect("its head is whole");
    }

    #[test]
    fn no_content_of_sound_blocks_makes_it_panic(
        content in vec(any::<u8>(), 0..400), kind in 1..5u8,
    ) {
        let mut session = written(&[], false).0;
        session.extend(block(&[&[kind, 3], content.as_slice()].concat()));
        let _ = read(&session);
    }

    #[test]
    fn a_sample_of_which_bytes_are_others_is_refused_or_sound(
        sample in sample(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        // As a block whose checksum is right: what was changed is seen by nobody else.
        let (bytes, ends) = written(&[(sample, Observation::default())], false);
        let mut content = zstd::decode_all(&bytes[8 + 12..ends[0]]).expect("a frame");
        for (at, to) in changes {
            let at = at.index(content.len());
            content[at] = to;
        }
        let mut session = written(&[], false).0;
        session.extend(block(&content));
        if let Ok(read) = read(&session) {
            for (_, sample) in read.walks {
                profiler_core::report::FragReport::from_sample(&sample);
            }
        }
    }
}

/// A block as the format has it.
fn block(content: &[u8]) -> Vec<u8> {
    let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    packer.include_checksum(true).expect("memory");
    packer.write_all(content).expect("memory");
    let packed = packer.finish().expect("memory");
    let mut block = b"FSBK".to_vec();
    block.extend((packed.len() as u32).to_le_bytes());
    block.extend((content.len() as u32).to_le_bytes());
    block.extend(packed);
    block
}

fn two_walks() -> Vec<(Sample, Observation)> {
    let sample = |taken_at_ns| Sample {
        taken_at_ns,
        ..Sample::default()
    };
    let observation = Observation::default;
    vec![(sample(5), observation()), (sample(6), observation())]
}

#[test]
fn a_damaged_record_costs_no_other() {
    let (mut bytes, ends) = written(&two_walks(), true);
    // In the midst of the first walk's block.
    bytes[(8 + 12 + ends[0]) / 2] ^= 0xff;
    let read = read(&bytes).expect("a session");
    assert_eq!(read.walks.len(), 1);
    assert_eq!(read.walks[0].0, 2, "it keeps its number");
    let observed: Vec<_> = read.observations.iter().map(|(walk, _)| *walk).collect();
    assert_eq!(observed, [1, 2], "each says of which walk it is");
    let trouble = read.trouble.expect("said");
    assert!(trouble.contains("1 record is damaged"), "{trouble}");
}

#[test]
fn a_damaged_header_costs_no_other_record() {
    let (whole, ends) = written(&two_walks(), true);
    // The mark, the length packed (a little too long; beyond the end; absurd), the length unpacked.
    for (at, xor) in [
        (0, 1),
        (3, 0x80),
        (4, 3),
        (5, 0x40),
        (7, 0xff),
        (8, 1),
        (11, 0xff),
    ] {
        let mut bytes = whole.clone();
        bytes[8 + at] ^= xor;
        let read = read(&bytes).expect("a session");
        let walks: Vec<_> = read.walks.iter().map(|(number, _)| *number).collect();
        assert_eq!(walks, [2], "byte {at} of the first walk's header");
        assert_eq!(read.observations.len(), 2, "byte {at}");
        let trouble = read.trouble.expect("said");
        assert!(trouble.starts_with("1 record is damaged"), "{trouble}");
    }
    // The last record's header: nothing follows that could be found.
    let mut bytes = whole.clone();
    bytes[ends[3]] ^= 1;
    let read = read(&bytes).expect("a session");
    assert_eq!(read.walks.len(), 2);
    let trouble = read.trouble.expect("said");
    assert!(trouble.contains("2 walks were read"), "{trouble}");
}

#[test]
fn bytes_between_records_cost_none_of_them() {
    let (mut bytes, ends) = written(&two_walks(), true);
    // More than is searched at a time, with the beginnings of marks in it.
    bytes.splice(ends[1]..ends[1], b"FSBFSB".repeat(40_000));
    let read = read(&bytes).expect("a session");
    assert_eq!(read.walks.len(), 2);
    let trouble = read.trouble.expect("said");
    assert!(
        trouble.contains("no block begins where one should"),
        "{trouble}"
    );
}

#[test]
fn what_follows_the_end_is_said() {
    let bytes = written(&two_walks(), true).0;
    let twice = [bytes.clone(), bytes].concat();
    let read = read(&twice).expect("a session");
    assert_eq!(read.walks.len(), 2);
    assert_eq!(
        read.trouble.as_deref(),
        Some("something follows its end, and was not read")
    );
}

#[test]
fn blocks_that_claim_one_another_end_the_reading_at_its_limit() {
    let (mut bytes, ends) = written(&two_walks(), false);
    bytes.truncate(ends[0]);
    // Each of them would be read whole, and then all but its first bytes again.
    let claim = [*b"FSBK", (4u32 << 20).to_le_bytes(), [0; 4]].concat();
    bytes.extend(claim.repeat(700_000));
    let meter = Meter::new(Limits::new(None, None, 8 << 30), Default::default());
    let mut reader = Reader::new(bytes.as_slice(), meter).expect("a session");
    let stopped = loop {
        match reader.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was read to its end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(stopped, ReadError::Stopped(_)), "{stopped}");
}

#[test]
fn records_of_kinds_that_are_not_known_are_skipped_and_said() {
    let (mut bytes, ends) = written(&two_walks(), true);
    let later = [block(&[9, 1, 7, 7]), block(&[9, 2, 7])].concat();
    bytes.splice(ends[1]..ends[1], later);
    let read = read(&bytes).expect("a session");
    assert_eq!(read.walks.len(), 2);
    let trouble = read.trouble.expect("said");
    assert!(
        trouble.contains("1 record is of a later fragscope"),
        "{trouble}"
    );
}

#[test]
fn later_versions_and_foreign_files_are_refused_by_name() {
    let mut bytes = written(&two_walks(), true).0;
    bytes[7] = 2;
    let why = |bytes: &[u8]| match read(bytes) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    };
    let later = why(&bytes);
    assert!(
        later.contains("format 2") && later.contains("reads format 1"),
        "{later}"
    );
    bytes[7] = 0;
    let none = why(&bytes);
    assert!(none.contains("format 0, which none has written"), "{none}");
    assert!(why(b"FRAGTRC\x01").contains("recording"));
    for foreign in [
        &b""[..],
        b"FRAGSNP",
        b"{\"schema\": 1}",
        b"\x7fELF...........",
    ] {
        assert!(why(foreign).contains("not a saved session"), "{foreign:?}");
    }
}

#[test]
fn what_unpacks_to_more_than_is_allowed_ends_the_reading() {
    let mut session = written(&two_walks(), false).0;
    let zeros = vec![0; 4 << 20];
    let first = block(&[&[1, 1], &zeros[2..]].concat());
    let more = block(&[&[1, 0], &zeros[2..]].concat());
    session.extend(first);
    for _ in 0..40 {
        session.extend(&more);
    }
    let limits = Limits::new(None, Some(64 << 20), 8 << 30);
    let meter = Meter::new(limits, Default::default());
    let mut reader = Reader::new(session.as_slice(), meter).expect("a session");
    let mut read = 0;
    let error = loop {
        match reader.next_record() {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("it was read"),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(read, 4, "what is before was read");
    assert!(error.contains("64.0 MiB, the limit of memory"), "{error}");
}

#[test]
fn a_page_run_of_all_addresses_takes_no_memory() {
    // The report would have a cell for each page.
    let mut sample = two_walks()[0].0.clone();
    use profiler_core::addr::{AddrRange, RemoteAddr};
    use profiler_core::residency::{PageRun, PageState, ResidencyMap};
    let mut residency = ResidencyMap::new(Vec::new());
    residency.push_run(PageRun {
        range: AddrRange::with_len(RemoteAddr::new(1 << 12), 1 << 47).expect("in range"),
        state: PageState::PRESENT,
    });
    sample.residency = residency;
    let bytes = written(&[(sample, Observation::default())], true).0;
    let error = read(&bytes).err().expect("refused").to_string();
    assert!(error.contains("the limit of memory"), "{error}");
}

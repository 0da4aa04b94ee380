//! The last walks of a session, in encoded form: what a black box keeps of a process. Walks are
//! added and the oldest dropped.

use std::collections::VecDeque;
use std::io::{self, Read};

use profiler_core::sample::Sample;

use super::{NAME, Observation, Reader, Record, VERSION, Writer, kind, part};
use crate::block::{self, NextBlock};
use crate::limits::Meter;
use crate::varint;

/// What became of the process of a black box's file.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub enum Fate {
    /// It has ended.
    Ended,
    /// It was running when the file was written.
    #[default]
    Running,
    /// The OOM killer ended it, or may have.
    Killed,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Ended, Self::Running, Self::Killed];

    const fn number(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Ended => 1,
            Self::Killed => 2,
        }
    }

    /// The fate in the file that begins with these bytes; `None` if it is not a black box's.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn of_file(mut head: impl Read) -> io::Result<Option<Self>> {
        let mut name = [0; NAME.len() + 1];
        if block::fill(&mut head, &mut name)? < name.len()
            || !name.starts_with(NAME)
            || name[NAME.len()] != VERSION
        {
            return Ok(None);
        }
        let (mut packed, mut block) = (Vec::new(), Vec::new());
        let found = block::read(&mut head, &mut packed, &mut block, &Meter::default())?;
        Ok(match (found, block.as_slice()) {
            (NextBlock::Block, [kind::BLACK_BOX, _, number]) => {
                Self::ALL.into_iter().find(|fate| fate.number() == *number)
            }
            _ => None,
        })
    }
}

/// The last walks of a process, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct KeptWalks {
    walks: VecDeque<KeptWalk>,
    last: u64,
}

#[derive(Debug)]
struct KeptWalk {
    number: u64,
    /// The blocks of the walk and of the observations made with it.
    bytes: Vec<u8>,
}

impl KeptWalks {
    /// The walks of a black box's file, all of them.
    ///
    /// # Errors
    /// If it cannot be read, or is incomplete: writing it anew would lose its content.
    pub(crate) fn read(mut input: impl Read) -> io::Result<Self> {
        let mut kept = Self::default();
        let mut name = [0; NAME.len() + 1];
        if block::fill(&mut input, &mut name)? < name.len() || name[..NAME.len()] != *NAME {
            return Err(damaged("it does not begin as a saved session does"));
        }
        let (mut packed, mut content, meter) = (Vec::new(), Vec::new(), Meter::default());
        loop {
            match block::read(&mut input, &mut packed, &mut content, &meter)? {
                NextBlock::Block => {}
                NextBlock::Damaged(why) => return Err(damaged(why)),
                NextBlock::End => return Err(damaged("it has no end")),
            }
            let [kind, place, rest @ ..] = content.as_slice() else {
                return Err(damaged("a block without a kind"));
            };
            match *kind {
                kind::BLACK_BOX => {}
                kind::END => return Ok(kept),
                kind::WALK if place & part::FIRST != 0 => {
                    let mut rest = rest;
                    let number = varint::take(&mut rest);
                    let number = number.ok_or_else(|| damaged("a walk without a number"))?;
                    kept.last = number;
                    let bytes = block::packed(&packed, content.len());
                    kept.walks.push_back(KeptWalk { number, bytes });
                }
                kind::WALK | kind::OBSERVATION => {
                    if let Some(walk) = kept.walks.back_mut() {
                        walk.bytes.extend(block::packed(&packed, content.len()));
                    }
                }
                _ => return Err(damaged("a block of an unknown kind")),
            }
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.walks.is_empty()
    }

    /// Adds a walk and its observation. At most `most` walks and `most_bytes` bytes are kept, but
    /// always the last walk.
    pub(crate) fn walk(
        &mut self,
        sample: &Sample,
        observation: &Observation,
        most: usize,
        most_bytes: u64,
    ) -> io::Result<()> {
        let mut writer = Writer::after(self.last, Vec::new());
        writer.walk(sample)?;
        writer.observe(observation)?;
        self.last += 1;
        self.walks.push_back(KeptWalk {
            number: self.last,
            bytes: writer.into_output(),
        });
        let bytes = |walks: &VecDeque<KeptWalk>| -> u64 {
            walks.iter().map(|walk| walk.bytes.len() as u64).sum()
        };
        while self.walks.len() > 1 && (self.walks.len() > most || bytes(&self.walks) > most_bytes) {
            self.walks.pop_front();
        }
        Ok(())
    }

    /// Adds an observation made after the last walk.
    pub(crate) fn observe(&mut self, observation: &Observation) -> io::Result<()> {
        if let Some(walk) = self.walks.back_mut() {
            let bytes = std::mem::take(&mut walk.bytes);
            let mut writer = Writer::after(walk.number, bytes);
            writer.observe(observation)?;
            walk.bytes = writer.into_output();
        }
        Ok(())
    }

    /// The last walk's sample; `None` if it cannot be read.
    pub(crate) fn last_sample(&self) -> Option<Sample> {
        let file = self.file(Fate::Running).ok()?;
        let mut reader = Reader::new(file.as_slice(), Meter::default()).ok()?;
        let mut last = None;
        while let Some(record) = reader.next_record().ok()? {
            if let Record::Walk { sample, .. } = record {
                last = Some(sample);
            }
        }
        last?.sample(&Meter::default()).ok()
    }

    /// Everything as a file.
    pub(crate) fn file(&self, fate: Fate) -> io::Result<Vec<u8>> {
        let mut writer = Writer::new(Vec::new())?;
        writer.mark(fate.number())?;
        for walk in &self.walks {
            writer.output().extend_from_slice(&walk.bytes);
        }
        writer.finish()
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

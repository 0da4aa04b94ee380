//! Reads the code tables of files in a thread of its own: a file system may take long to answer,
//! and neither events nor the end of a window may wait for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use profiler_target::{FilePath, Process, Target, start_thread};

use super::files::{CodeFile, Symbols};

/// All files of a session are read within this time together.
const ALL_TIME: Duration = Duration::from_secs(10);

/// What was read from a file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// How callers are found.
    pub(super) code: CodeFile,
    /// What functions are called.
    pub(super) symbols: Symbols,
}

impl Tables {
    /// Bytes kept of it.
    pub(super) fn bytes(&self) -> usize {
        self.code.bytes() + self.symbols.bytes()
    }
}

/// A file to be read.
pub(super) struct Question {
    /// The number of the file, for the answer.
    pub(super) number: u32,
    /// The path from which the target maps it.
    pub(super) mapped: String,
    /// The path by which it is found here.
    pub(super) path: FilePath,
    /// The page of its code that is wanted.
    pub(super) code_offset: u64,
}

/// What was read, or why nothing is known.
pub(super) struct Answer {
    /// As in the question.
    pub(super) number: u32,
    /// The tables.
    pub(super) read: Result<Box<Tables>, String>,
}

/// The thread, once there is something to read.
pub(super) struct Reader {
    target: Arc<Target>,
    channels: Option<(Sender<Question>, Receiver<Answer>)>,
    /// Answers for what cannot be read because there is no thread.
    refused: Vec<Answer>,
}

impl Reader {
    /// For the files of a target.
    pub(super) fn of(target: Arc<Target>) -> Self {
        Self {
            target,
            channels: None,
            refused: Vec::new(),
        }
    }

    /// Has a file read.
    pub(super) fn ask(&mut self, question: Question) {
        let number = question.number;
        if self.channels.is_none() {
            let (questions, asked) = channel();
            let (answers, answered) = channel();
            let target = Arc::clone(&self.target);
            let started = start_thread("native tables", move || read_all(&target, asked, answers));
            self.channels = started.is_ok().then_some((questions, answered));
        }
        let sent = self
            .channels
            .as_ref()
            .map(|(questions, _)| questions.send(question));
        if !matches!(sent, Some(Ok(()))) {
            let read = Err("there is no thread that reads it".to_owned());
            self.refused.push(Answer { number, read });
        }
    }

    /// The next file that was read; waits up to `wait` for it.
    pub(super) fn answer(&mut self, wait: Duration) -> Option<Answer> {
        if let Some(refused) = self.refused.pop() {
            return Some(refused);
        }
        let (_, answers) = self.channels.as_ref()?;
        answers.recv_timeout(wait).ok()
    }
}

/// Reads until nobody asks any more.
fn read_all(target: &Target, asked: Receiver<Question>, answers: Sender<Answer>) {
    let mut left = ALL_TIME;
    for question in asked {
        let number = question.number;
        let began = Instant::now();
        let read = match left.is_zero() {
            true => Err(format!(
                "reading the files before it took the {} s that there are for all",
                ALL_TIME.as_secs()
            )),
            false => read(target, question),
        };
        left = left.saturating_sub(began.elapsed());
        if answers.send(Answer { number, read }).is_err() {
            return;
        }
    }
}

fn read(target: &Target, question: Question) -> Result<Box<Tables>, String> {
    let Question {
        mapped,
        path,
        code_offset,
        ..
    } = question;
    let read = target.files().read(&mapped, path, move |source| {
        let code = CodeFile::read(source, code_offset)?;
        let symbols = Symbols::read(source);
        Some(Box::new(Tables { code, symbols }))
    });
    let read = read.map_err(|error| error.to_string())?;
    read.ok_or_else(|| "it is no ELF file of this machine, or a damaged one".to_owned())
}

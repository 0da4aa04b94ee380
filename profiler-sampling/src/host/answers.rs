//! Asking processes that may never answer.
//!
//! `/proc/PID/cmdline`, `environ`, `maps`, `smaps_rollup` and `pagemap` wait for the lock of that process's address
//! space (`mmap_lock`, `fs/proc/task_mmu.c`). A process that hangs while it holds the lock keeps each reader waiting
//! until it goes. So such files are read on a thread that is left behind when it does not answer in time; the other
//! processes are then read on a new one.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use profiler_core::host::ProcessId;
use profiler_target::start_thread;

/// The user that owns the host.
pub(super) const ROOT: u32 = 0;
/// Threads that one user's processes may keep waiting. Beyond it, that user's processes are not asked.
const MAX_WAITING_OF_A_USER: usize = 8;
/// The same of root's, which those of others do not count to.
const MAX_WAITING_OF_ROOT: usize = 128;
/// Threads that all users but root together may keep waiting before processes that never answered are not asked: one
/// user may have thousands of user IDs.
const MAX_WAITING_OF_OTHERS: usize = 64;
/// The same for processes that have answered before.
const MAX_WAITING_OF_KNOWN: usize = 192;

type Work = Box<dyn FnOnce() + Send>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The process does not answer.
    #[error(
        "process {pid} has not answered for {seconds} s: a thread of it, or somebody who reads it, may hold the lock of \
         its address space"
    )]
    Silent {
        /// Its number.
        pid: i32,
        /// For how long, in whole seconds.
        seconds: u64,
    },
    /// It was not asked.
    #[error("process {pid} is not read: {waiting} processes of its user do not answer")]
    TooManyOfUser {
        /// Its number.
        pid: i32,
        /// How many do not answer.
        waiting: usize,
    },
    /// It was not asked.
    #[error(
        "process {pid} is not read: {waiting} processes of other users than root do not answer"
    )]
    TooMany {
        /// Its number.
        pid: i32,
        /// How many do not answer.
        waiting: usize,
    },
    /// No thread can be started to ask on.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// A process that was asked and has not answered yet.
#[derive(Debug)]
struct Silent {
    user: Option<u32>,
    since: Instant,
    /// Disconnected once the thread that asked it has ended.
    ended: Receiver<()>,
}

/// The thread that asks.
#[derive(Debug)]
struct Asker {
    work: Sender<Work>,
    ended: Receiver<()>,
}

/// Asks processes, one at a time.
#[derive(Debug, Default)]
pub(super) struct Answers {
    asker: Option<Asker>,
    silent: BTreeMap<ProcessId, Silent>,
}

impl Answers {
    /// Asks a process for at most `time`. `is_known` says whether it has answered before. `user` gives the user that it runs
    /// as; it is called only while several others do not answer, or when this one does not.
    ///
    /// # Errors
    /// [`NoAnswer`], at once where this process, or too many others, did not answer before and still do not.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        id: ProcessId,
        is_known: bool,
        user: impl Fn() -> Option<u32>,
        time: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.may_be_asked(id, is_known, &user)?;
        let asker = match self.asker.take() {
            Some(asker) => asker,
            None => Asker::start()?,
        };
        let (answer, answered) = channel();
        let since = Instant::now();
        let work: Work = Box::new(move || {
            // Nobody listens any more when it took too long.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(question)));
        });
        asker.work.send(work).map_err(|_| ended())?;
        match answered.recv_timeout(time) {
            Ok(answer) => {
                self.asker = Some(asker);
                Ok(answer.unwrap_or_else(|panic| resume_unwind(panic)))
            }
            Err(RecvTimeoutError::Disconnected) => Err(ended().into()),
            Err(RecvTimeoutError::Timeout) => {
                let ended = asker.ended;
                let user = user();
                self.silent.insert(id, Silent { user, since, ended });
                Err(silence(id, since))
            }
        }
    }

    fn may_be_asked(
        &mut self,
        id: ProcessId,
        is_known: bool,
        user: impl Fn() -> Option<u32>,
    ) -> Result<(), NoAnswer> {
        self.silent
            .retain(|_, of| of.ended.try_recv() == Err(TryRecvError::Empty));
        if let Some(of) = self.silent.get(&id) {
            return Err(silence(id, of.since));
        }
        if self.silent.len() < MAX_WAITING_OF_A_USER {
            return Ok(());
        }
        let (pid, user) = (id.pid, user());
        let waiting_of =
            |is: &dyn Fn(&Silent) -> bool| self.silent.values().filter(|of| is(of)).count();
        let of_user = waiting_of(&|of| of.user == user);
        let others = waiting_of(&|of| of.user != Some(ROOT));
        let most_of_user = match user {
            Some(ROOT) => MAX_WAITING_OF_ROOT,
            _ => MAX_WAITING_OF_A_USER,
        };
        let most_of_others = match is_known {
            true => MAX_WAITING_OF_KNOWN,
            false => MAX_WAITING_OF_OTHERS,
        };
        // It may be anybody's, so all others count as its user's.
        if user.is_none() && others >= MAX_WAITING_OF_A_USER {
            let waiting = others;
            return Err(NoAnswer::TooMany { pid, waiting });
        }
        if of_user >= most_of_user {
            let waiting = of_user;
            return Err(NoAnswer::TooManyOfUser { pid, waiting });
        }
        if user != Some(ROOT) && others >= most_of_others {
            let waiting = others;
            return Err(NoAnswer::TooMany { pid, waiting });
        }
        Ok(())
    }
}

fn silence(id: ProcessId, since: Instant) -> NoAnswer {
    NoAnswer::Silent {
        pid: id.pid,
        seconds: since.elapsed().as_secs(),
    }
}

impl Asker {
    fn start() -> io::Result<Self> {
        let (work, to_do) = channel::<Work>();
        let (is_running, ended) = channel::<()>();
        start_thread("ask", move || {
            for work in to_do {
                work();
            }
            drop(is_running);
        })?;
        Ok(Self { work, ended })
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that reads processes has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const MOMENT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(20);

    fn process(pid: i32) -> ProcessId {
        ProcessId {
            pid,
            ..ProcessId::default()
        }
    }

    /// Asks a process of user `user` that answers when the sender is dropped.
    fn ask_silent(answers: &mut Answers, pid: i32, user: u32) -> Sender<()> {
        let (answers_now, answer) = channel::<()>();
        let asked = answers.ask(
            process(pid),
            false,
            || Some(user),
            SHORT,
            move || answer.recv(),
        );
        assert!(matches!(asked, Err(NoAnswer::Silent { pid: of, .. }) if of == pid));
        answers_now
    }

    #[test]
    fn others_are_asked_while_one_does_not_answer_and_it_is_asked_again_once_it_has() {
        let mut answers = Answers::default();
        assert_eq!(
            answers
                .ask(process(1), false, || None, LONG, || 5)
                .expect("an answer"),
            5
        );
        let silent = ask_silent(&mut answers, 2, 1000);
        let asked = answers.ask(process(2), false, || Some(1000), LONG, || 5);
        let message = asked.expect_err("it is still silent").to_string();
        assert!(
            message.starts_with("process 2 has not answered for 0 s"),
            "{message}"
        );
        assert_eq!(
            answers
                .ask(process(3), false, || Some(1000), LONG, || 6)
                .expect("an answer"),
            6
        );
        drop(silent);
        let again = Instant::now();
        while answers
            .ask(process(2), false, || Some(1000), LONG, || 7)
            .is_err()
        {
            assert!(again.elapsed() < LONG, "its thread has ended");
        }
    }

    #[test]
    fn one_user_keeps_a_bounded_number_of_threads_waiting_and_nobody_elses_processes() {
        let mut answers = Answers::default();
        let most = MAX_WAITING_OF_A_USER as i32;
        let silent: Vec<_> = (0..most)
            .map(|pid| ask_silent(&mut answers, pid, 1000))
            .collect();
        let next = answers.ask(process(most), false, || Some(1000), LONG, || 5);
        assert!(matches!(next, Err(NoAnswer::TooManyOfUser { .. })));
        let of_known = answers.ask(process(most), true, || Some(1000), LONG, || 5);
        assert!(matches!(of_known, Err(NoAnswer::TooManyOfUser { .. })));
        let of_other = answers.ask(process(most), false, || Some(1001), LONG, || 5);
        assert_eq!(of_other.expect("an answer"), 5);
        drop(silent);
    }

    #[test]
    fn many_users_together_keep_neither_root_nor_processes_that_have_answered_from_being_asked() {
        let mut answers = Answers::default();
        let silent: Vec<_> = (0..MAX_WAITING_OF_OTHERS as i32)
            .map(|pid| ask_silent(&mut answers, pid, 1000 + pid as u32 / 4))
            .collect();
        let mut ask =
            |user, is_known| answers.ask(process(9999), is_known, || Some(user), LONG, || 5);
        assert!(matches!(ask(7, false), Err(NoAnswer::TooMany { .. })));
        assert_eq!(ask(7, true).expect("an answer"), 5);
        assert_eq!(ask(ROOT, false).expect("an answer"), 5);
        drop(silent);
    }

    #[test]
    fn a_process_of_an_unknown_user_has_no_places_of_its_own_and_takes_nobody_elses() {
        let mut answers = Answers::default();
        let most = MAX_WAITING_OF_A_USER as i32;
        let silent: Vec<_> = (0..most)
            .map(|pid| ask_silent(&mut answers, pid, 1000))
            .collect();
        let unknown = answers.ask(process(most), true, || None, LONG, || 5);
        assert!(matches!(unknown, Err(NoAnswer::TooMany { .. })));
        drop(silent);
        let mut answers = Answers::default();
        let mut silent = Vec::new();
        for pid in 0..most {
            let (answers_now, answer) = channel::<()>();
            let asked = answers.ask(process(pid), false, || None, SHORT, move || answer.recv());
            assert!(matches!(asked, Err(NoAnswer::Silent { .. })));
            silent.push(answers_now);
        }
        let unknown = answers.ask(process(most), true, || None, LONG, || 5);
        assert!(matches!(unknown, Err(NoAnswer::TooMany { .. })));
        for user in [ROOT, 1000] {
            let known = answers.ask(process(most), false, || Some(user), LONG, || 5);
            assert_eq!(known.expect("an answer"), 5);
        }
    }

    #[test]
    fn of_so_many_users_that_each_has_few_not_even_known_processes_are_asked_but_roots() {
        let mut answers = Answers::default();
        let silent: Vec<_> = (0..MAX_WAITING_OF_KNOWN as i32)
            .map(|pid| {
                let user = 1000 + pid as u32 / MAX_WAITING_OF_A_USER as u32;
                let (answers_now, answer) = channel::<()>();
                let question = move || answer.recv();
                let asked = answers.ask(process(pid), true, || Some(user), MOMENT, question);
                assert!(matches!(asked, Err(NoAnswer::Silent { .. })), "{pid}");
                answers_now
            })
            .collect();
        let mut ask = |user, is_known| answers.ask(process(9999), is_known, || user, LONG, || 5);
        for user in [Some(7), None] {
            let refused = ask(user, true);
            let is_limit = |error: &NoAnswer| {
                matches!(
                    error,
                    NoAnswer::TooMany {
                        waiting: MAX_WAITING_OF_KNOWN,
                        ..
                    }
                )
            };
            assert!(refused.as_ref().is_err_and(is_limit), "{refused:?}");
        }
        assert_eq!(ask(Some(ROOT), false).expect("an answer"), 5);
        drop(silent);
    }

    #[test]
    fn a_question_that_was_left_behind_goes_on_beside_others_and_its_answer_is_nobody_elses() {
        let mut answers = Answers::default();
        let (go_on, wait) = channel::<()>();
        let (end, ended) = channel();
        let asked = answers.ask(
            process(1),
            false,
            || Some(ROOT),
            MOMENT,
            move || {
                let _ = wait.recv();
                end.send("the first").expect("awaited");
                1
            },
        );
        assert!(matches!(asked, Err(NoAnswer::Silent { pid: 1, .. })));
        let ask = |answers: &mut Answers, number| {
            let asked = answers.ask(process(number), false, || Some(ROOT), LONG, move || number);
            asked.expect("an answer")
        };
        assert_eq!(ask(&mut answers, 2), 2);
        drop(go_on);
        assert_eq!(ended.recv_timeout(LONG), Ok("the first"));
        assert_eq!(ask(&mut answers, 3), 3);
    }

    #[test]
    #[should_panic(expected = "of the question")]
    fn a_panic_of_the_question_is_one_of_who_asks() {
        let _ = Answers::default().ask(
            process(1),
            false,
            || None,
            LONG,
            || panic!("of the question"),
        );
    }
}

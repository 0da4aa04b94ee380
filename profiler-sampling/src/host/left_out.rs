//! What is not in a look at a host, and why.

use profiler_target::host::hides_processes;

use super::answers::NoAnswer;
use super::watched::{Deferred, Kind};

/// How many processes a look leaves out, by the reason.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// More than are listed, or shown.
    pub(super) not_listed: u64,
    /// Those that cannot be read, and why the first cannot.
    closed: First,
    /// Those that do not answer, and what is known of the first.
    silent: First,
    with_served_files: u64,
    suspect: u64,
}

#[derive(Debug, Default)]
struct First {
    count: u64,
    why: String,
}

impl First {
    fn add(&mut self, why: impl FnOnce() -> String) {
        if self.count == 0 {
            self.why = why();
        }
        self.count += 1;
    }

    fn notice(&self, all: &str) -> Option<String> {
        let Self { count, why } = self;
        match count {
            0 => None,
            1 => Some(format!("1 process {all}: {why}")),
            _ => Some(format!("{count} processes {all}; the first: {why}")),
        }
    }
}

impl LeftOut {
    /// Nothing but what the list left out.
    pub(super) fn of_list(not_listed: u64) -> Self {
        Self {
            not_listed,
            ..Self::default()
        }
    }

    /// Counts a process of this kind, which was asked.
    pub(super) fn count(&mut self, kind: &Kind, no_answer: Option<NoAnswer>) {
        if let Some(error) = no_answer {
            self.silent.add(|| error.to_string());
            return;
        }
        match kind {
            Kind::Closed(why) | Kind::Failed { why, .. } => self.closed.add(|| why.clone()),
            Kind::Deferred(Deferred::MapsServedFiles) => self.with_served_files += 1,
            Kind::Deferred(Deferred::Suspect) => self.suspect += 1,
            Kind::Deferred(Deferred::New) | Kind::Python(_) | Kind::Other { .. } => {}
        }
    }

    /// How many cannot be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.closed.count + self.silent.count
    }

    /// A sentence for each reason, where no more than `most` processes are shown.
    pub(super) fn notices(&self, most: usize) -> Vec<String> {
        let is_hidden = hides_processes().then(|| {
            "/proc is mounted with hidepid: processes of other users may be hidden".to_owned()
        });
        let not_looked_into = |count: u64, why: &str| match count {
            0 => None,
            1 => Some(format!("1 process is not looked into yet: {why}")),
            _ => Some(format!("{count} processes are not looked into yet: {why}")),
        };
        let with_served_files = not_looked_into(
            self.with_served_files,
            "file systems of files that are mapped there may not answer, as others' did not",
        );
        let suspect = not_looked_into(
            self.suspect,
            "the same process, or another of its user, did not answer before",
        );
        let not_listed = (self.not_listed > 0).then(|| {
            format!(
                "{} processes are left out: no more than {most} are shown",
                self.not_listed
            )
        });
        [
            self.closed.notice("cannot be read"),
            self.silent.notice("cannot be read in full"),
            is_hidden,
            not_listed,
            with_served_files,
            suspect,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notices(left_out: &LeftOut) -> Vec<String> {
        let mut notices = left_out.notices(5);
        notices.retain(|notice| !notice.contains("hidepid"));
        notices
    }

    #[test]
    fn what_is_looked_into_later_is_no_process_that_cannot_be_read() {
        let mut left_out = LeftOut::of_list(0);
        left_out.count(&Kind::Deferred(Deferred::New), None);
        left_out.count(&Kind::Python(String::new()), None);
        assert_eq!(notices(&left_out), Vec::<String>::new());
        left_out.count(&Kind::Deferred(Deferred::Suspect), None);
        let why = "the same process, or another of its user, did not answer before";
        let one = format!("1 process is not looked into yet: {why}");
        assert_eq!(notices(&left_out), [one]);
        left_out.count(&Kind::Deferred(Deferred::Suspect), None);
        left_out.count(&Kind::Deferred(Deferred::MapsServedFiles), None);
        let [served, suspect] = &notices(&left_out)[..] else {
            panic!("two reasons: {left_out:?}");
        };
        assert!(served.starts_with("1 process is not looked into yet: file systems of files"));
        assert_eq!(
            suspect,
            &format!("2 processes are not looked into yet: {why}")
        );
        assert_eq!(left_out.unreadable(), 0);
    }

    #[test]
    fn one_that_does_not_answer_counts_as_that_whatever_was_known_of_it() {
        let mut left_out = LeftOut::of_list(3);
        let silent = |pid| Some(NoAnswer::TooManyOfUser { pid, waiting: 8 });
        left_out.count(&Kind::Python(String::new()), silent(7));
        left_out.count(&Kind::Deferred(Deferred::Suspect), silent(8));
        left_out.count(&Kind::Closed("it is closed".into()), None);
        assert_eq!(left_out.unreadable(), 3);
        assert_eq!(
            notices(&left_out),
            [
                "1 process cannot be read: it is closed",
                "2 processes cannot be read in full; the first: process 7 is not read: 8 processes of its user do not \
                 answer",
                "3 processes are left out: no more than 5 are shown",
            ]
        );
    }
}

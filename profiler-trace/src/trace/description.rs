//! What a trace says about the recorded program, and the names used in the file:
//! `docs/trace-format.md` lists them.

use profiler_core::allocator::{Allocator, AllocatorTitle, GlibcSetting, UnknownEnvironment};
use profiler_core::machine::HugePageMode;

/// Everything about the recorded program except events. Unknown values are `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TraceDescription {
    /// The command line, at the start of the recording.
    pub command: Option<String>,
    /// The process's name.
    pub comm: Option<String>,
    /// The process's number.
    pub pid: Option<u64>,
    /// Python's name and version, such as `CPython 3.11.2`.
    pub python: Option<String>,
    /// The C library's, such as `glibc 2.36`.
    pub libc: Option<String>,
    /// The allocator that the program had, by name and version.
    pub malloc: Option<AllocatorTitle>,
    /// The object that contains it.
    pub malloc_path: Option<String>,
    /// Processors that the program could run on.
    pub cpus: Option<u32>,
    /// Bytes of a page.
    pub page_size: Option<u64>,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// What recorded it.
    pub recorder: Option<RecordedBy>,
    /// When the recording began, in RFC 3339 format.
    pub started_at: Option<String>,
    /// The mode of transparent huge pages.
    pub thp: Option<HugePageMode>,
    /// Variables that settle an allocator; empty where [`Self::environment_unknown`] says why they are unknown.
    pub env: Vec<(String, String)>,
    /// Why it is unknown which variables the program had.
    pub environment_unknown: Option<UnknownEnvironment>,
    /// Settings of the allocator in force, as the walk found them.
    pub settings: Vec<(String, String)>,
    /// The object allocator whose calls were to be recorded too: `python`.
    pub objects: Option<String>,
    /// The format from which the recording was read, if it is another tool's.
    pub format: Option<String>,
    /// What that format does not hold.
    pub lacks: Vec<String>,
    /// Values that are unknown here, from a later version.
    pub other: Vec<(String, String)>,
}

/// What recorded a trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecordedBy {
    /// The recorder that fragscope preloads.
    Preload,
    /// fragscope's probes, which first record a walk of the heap.
    Probes,
    /// Another tool, by its name.
    Tool(String),
}

impl RecordedBy {
    /// Its name in the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Preload => "preload",
            Self::Probes => "probes",
            Self::Tool(name) => name,
        }
    }

    fn of(name: String) -> Self {
        match &*name {
            "preload" => Self::Preload,
            "probes" => Self::Probes,
            _ => Self::Tool(name),
        }
    }
}

const COMMAND: &str = "command";
const COMM: &str = "comm";
const PID: &str = "pid";
const PYTHON: &str = "python";
const LIBC: &str = "libc";
const MALLOC: &str = "malloc";
const MALLOC_PATH: &str = "malloc_path";
const CPUS: &str = "cpus";
const PAGE_SIZE: &str = "page_size";
const KERNEL: &str = "kernel";
const RECORDER: &str = "recorder";
const STARTED_AT: &str = "started_at";
const THP: &str = "thp";
const OBJECTS: &str = "objects";
const FORMAT: &str = "format_of";
const ENVIRONMENT_UNKNOWN: &str = "environment_unknown";
const ENV: &str = "env.";
const SETTING: &str = "setting.";
const LACKS: &str = "lacks.";
const YES: &str = "yes";

impl TraceDescription {
    /// Of a recording of another tool's, which lacks what traces hold.
    pub(crate) fn foreign(format: &str, lacks: &[&str]) -> Self {
        Self {
            format: Some(format.to_owned()),
            environment_unknown: Some(UnknownEnvironment::NotRecorded),
            lacks: lacks.iter().map(|what| (*what).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        value_of(&self.env, name)
    }

    /// The value of a setting of the allocator.
    pub fn setting(&self, name: &str) -> Option<&str> {
        value_of(&self.settings, name)
    }

    /// Whether the program had glibc's malloc, which is assumed if that was not recorded.
    pub fn is_glibc(&self) -> bool {
        let recorded = self
            .malloc
            .as_ref()
            .filter(|title| !title.name().is_empty());
        recorded.is_none_or(|title| title.kind() == Some(Allocator::Glibc))
    }

    /// A setting of glibc's that is a number.
    pub fn glibc_setting(&self, wanted: GlibcSetting) -> Option<u64> {
        let settings = self.settings.iter();
        wanted.in_force(settings.map(|(name, value)| (&**name, &**value)))
    }

    /// All known values, each by its name in the file.
    pub fn named(&self) -> Vec<(String, String)> {
        let text = |value: &Option<String>| value.clone();
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let first = [
            (COMMAND, text(&self.command)),
            (COMM, text(&self.comm)),
            (PID, number(self.pid)),
            (PYTHON, text(&self.python)),
            (LIBC, text(&self.libc)),
            (MALLOC, self.malloc.as_ref().map(ToString::to_string)),
            (MALLOC_PATH, text(&self.malloc_path)),
            (CPUS, number(self.cpus.map(u64::from))),
            (PAGE_SIZE, number(self.page_size)),
            (KERNEL, text(&self.kernel)),
            (
                RECORDER,
                self.recorder.as_ref().map(|by| by.name().to_owned()),
            ),
            (STARTED_AT, text(&self.started_at)),
            (THP, self.thp.map(|mode| mode.name().to_owned())),
            (
                ENVIRONMENT_UNKNOWN,
                self.environment_unknown
                    .map(|reason| reason.name().to_owned()),
            ),
            (OBJECTS, text(&self.objects)),
            (FORMAT, text(&self.format)),
        ];
        let first = first.into_iter();
        let first = first.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let prefixed = |prefix: &str, all: &[(String, String)]| -> Vec<(String, String)> {
            let all = all.iter();
            all.map(|(name, value)| (format!("{prefix}{name}"), value.clone()))
                .collect()
        };
        let lacks = self.lacks.iter();
        first
            .chain(prefixed(ENV, &self.env))
            .chain(prefixed(SETTING, &self.settings))
            .chain(lacks.map(|what| (format!("{LACKS}{what}"), YES.to_owned())))
            .chain(self.other.iter().cloned())
            .collect()
    }

    /// Takes a value by its name in the file. An invalid value, or a second one with the same name,
    /// is kept as it is.
    pub(super) fn put(&mut self, name: String, value: String) {
        if let Some(value) = self.put_known(&name, value) {
            self.other.push((name, value));
        }
    }

    /// Gives the value back that is none of this name.
    fn put_known(&mut self, name: &str, value: String) -> Option<String> {
        match name {
            COMMAND => put_text(&mut self.command, value),
            COMM => put_text(&mut self.comm, value),
            PID => put_number(&mut self.pid, value),
            PYTHON => put_text(&mut self.python, value),
            LIBC => put_text(&mut self.libc, value),
            MALLOC if self.malloc.is_none() => {
                self.malloc = Some(AllocatorTitle::parse(&value));
                None
            }
            MALLOC_PATH => put_text(&mut self.malloc_path, value),
            CPUS => put_number(&mut self.cpus, value),
            PAGE_SIZE => put_number(&mut self.page_size, value),
            KERNEL => put_text(&mut self.kernel, value),
            RECORDER if self.recorder.is_none() => {
                self.recorder = Some(RecordedBy::of(value));
                None
            }
            STARTED_AT => put_text(&mut self.started_at, value),
            THP if self.thp.is_none() => {
                self.thp = HugePageMode::named(&value);
                self.thp.is_none().then_some(value)
            }
            ENVIRONMENT_UNKNOWN if self.environment_unknown.is_none() => {
                self.environment_unknown = UnknownEnvironment::named(&value);
                self.environment_unknown.is_none().then_some(value)
            }
            OBJECTS => put_text(&mut self.objects, value),
            FORMAT => put_text(&mut self.format, value),
            _ => {
                if let Some(name) = name.strip_prefix(ENV) {
                    self.env.push((name.to_owned(), value));
                } else if let Some(name) = name.strip_prefix(SETTING) {
                    self.settings.push((name.to_owned(), value));
                } else if let Some(what) = name.strip_prefix(LACKS).filter(|_| value == YES) {
                    self.lacks.push(what.to_owned());
                } else {
                    return Some(value);
                }
                None
            }
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for TraceDescription {
    /// From values by their names in the file.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(named: I) -> Self {
        let mut description = Self::default();
        for (name, value) in named {
            description.put(name.into(), value.into());
        }
        description
    }
}

fn put_text(place: &mut Option<String>, value: String) -> Option<String> {
    match place {
        Some(_) => Some(value),
        None => {
            *place = Some(value);
            None
        }
    }
}

/// A number is accepted in the form in which it would be written.
fn put_number<N>(place: &mut Option<N>, value: String) -> Option<String>
where
    N: std::str::FromStr + ToString,
{
    match value.parse::<N>() {
        Ok(number) if place.is_none() && number.to_string() == value => {
            *place = Some(number);
            None
        }
        _ => Some(value),
    }
}

fn value_of<'a>(all: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut all = all.iter();
    all.find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back_by_its_name_and_is_documented() {
        let text = |value: &str| Some(value.to_owned());
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let description = TraceDescription {
            command: text("python3 worker.py"),
            comm: text("python3"),
            pid: Some(7),
            python: text("CPython 3.11.2"),
            libc: text("glibc 2.36"),
            malloc: Some(AllocatorTitle::parse("jemalloc 5.3.0")),
            malloc_path: text("/lib/libjemalloc.so.2"),
            cpus: Some(2),
            page_size: Some(4096),
            kernel: text("6.18"),
            recorder: Some(RecordedBy::Probes),
            started_at: text("2026-11-23T00:00:00Z"),
            thp: Some(HugePageMode::Madvise),
            env: vec![named("MALLOC_CONF", "narenas:2")],
            environment_unknown: Some(UnknownEnvironment::Overwritten),
            settings: vec![named("narenas", "2")],
            objects: text("python"),
            format: text("heaptrack"),
            lacks: vec!["threads".to_owned()],
            other: vec![named("of a later version", "yes")],
        };
        let all = description.named();
        let back: TraceDescription = all.iter().cloned().collect();
        assert_eq!(back, description);
        assert_eq!(description.variable("MALLOC_CONF"), Some("narenas:2"));
        assert_eq!(description.setting("narenas"), Some("2"));
        assert_eq!(description.setting("other"), None);
        let document = include_str!("../../../docs/trace-format.md");
        let (_, chapter) = document.split_once("## Description").expect("a chapter");
        let (chapter, _) = chapter.split_once("## Seed").expect("the next one");
        // Only recordings of other tools have these.
        let foreign = [FORMAT, "lacks.threads", "of a later version"];
        for (name, _) in all.iter().filter(|(name, _)| !foreign.contains(&&**name)) {
            let name = match name.split_once('.') {
                Some((prefix, _)) => format!("{prefix}.NAME"),
                None => name.clone(),
            };
            assert!(chapter.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn what_is_no_value_of_a_name_or_comes_again_is_kept() {
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let all = [
            named("cpus", "many"),
            named("pid", "007"),
            named("malloc", "glibc 2.36"),
            named("malloc", "jemalloc 5.3.0"),
            named("environment_unknown", "for a reason of a later version"),
            named("thp", "sometimes"),
            named("recorder", "memray"),
            named("recorder", "probes"),
            named("lacks.times", "no"),
        ];
        let description: TraceDescription = all.iter().cloned().collect();
        assert_eq!(description.cpus, None);
        assert_eq!(description.environment_unknown, None);
        assert_eq!(description.thp, None);
        let title = AllocatorTitle::parse("glibc 2.36");
        assert_eq!(description.malloc, Some(title));
        let by = RecordedBy::Tool("memray".to_owned());
        assert_eq!(description.recorder, Some(by));
        let mut back = description.named();
        let mut all = all.to_vec();
        back.sort();
        all.sort();
        assert_eq!(back, all);
    }
}

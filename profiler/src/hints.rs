//! What screens, files and notices suggest to do, by kind. These hints and the advice of a failed
//! command (`cli/advice`) are the only sentences that name flags; a test compares both with the
//! command line.

/// The hints that are the same for every target.
macro_rules! hints {
    ($($(#[$about:meta])* $id:ident => $words:expr,)*) => {
        /// Something that can be done, or was asked for by a flag.
        #[derive(Copy, Clone, Debug, Eq, PartialEq)]
        pub(crate) enum Hint {
            $($(#[$about])* $id,)*
        }

        impl Hint {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// In words, which may be part of a sentence.
            pub(crate) const fn words(self) -> &'static str {
                match self {
                    $(Self::$id => $words,)*
                }
            }
        }
    };
}

hints! {
    /// A list is cut off.
    AllRows => "--json",
    /// A list of arenas is cut off.
    AllArenas => "all of them with --json",
    /// A list of call sites is cut off.
    AllSites => "--json, -o FILE.speedscope.json",
    /// The verdict of a tree is cut off.
    AllOfVerdict => "all of it: explain --tree",
    /// Only processes of Python are shown.
    OtherProcesses => "--all shows every process.",
    /// A stop took too long.
    LongerStops => "--max-stop",
    /// Objects were replaced while they were read, and a stop would settle that.
    StopForObjects =>
        "`--stop-for-objects` of snapshot and explain does that, with a `--max-stop` that is long enough.",
    /// A walk had no time left.
    LongerWalks => "--max-walk gives it more time",
    /// A mapped file exceeds the limit of bytes read from one file.
    MoreOfFiles => "--file-limit reads more of each mapped file",
    /// The same, when it prevented probes from being attached.
    LargerObject => "--file-limit raises the limit",
    /// Watching growth took too much.
    MoreGrowth => "--budget lets growth be watched for more of the target's time",
    /// The probes record the stream for shadows.
    RecordsAll => "the probes record every call (--what-if): no rates, lifetimes or call sites",
    /// The same, for call sites.
    RecordsNoSites =>
        "Call sites come from probes that sample. With --what-if they record every call, without its stack.",
    /// The same, for rates.
    RecordsNoRates => "Allocations are recorded for --what-if alone.",
    /// A shadow has ended.
    ShadowEnded => "a replay of --what-if ended",
    /// No probes were asked for.
    ProbesOff => "probes are off (--no-probes)",
    /// No objects were asked for.
    ObjectsOff => "Python's objects are not read (--no-objects).",
    /// What probes may take.
    ProbeCost =>
        "share of one core's time that the probes took over the last windows with the pauses after \
         them, and the most they may take (four fifths of --budget; stops have the rest). With --what-if \
         they record every call, and no budget limits them",
    /// There are no probes, for rates.
    NoRates =>
        "`fragscope doctor` lists what probes need and how to fix what is missing. Walks and residency work \
         without probes.",
    /// This host, or our privileges, allow no probes.
    ProbesNeed => "`fragscope doctor` names the fix",
    /// Breakpoints may have been left in the target.
    BreakpointsLeft => "`fragscope doctor --pid` names the fix for breakpoints left behind",
    /// A program cannot be recorded from its start.
    RecordRunning => "Record it while it runs: `sudo fragscope record --pid PID -o FILE`",
    /// Processes became another user, or lost the recorder.
    RecordAsUser =>
        "Start `fragscope record` as that user, or record it while it runs: `sudo fragscope record --pid \
         PID -o FILE`",
    /// Processes began in a PID namespace.
    RecordInNamespace =>
        "Start `fragscope record` in it, or record from here while it runs: `sudo fragscope record --pid PID \
         -o FILE`",
    /// What ended a recording.
    DurationOver => "the end of --duration",
    /// A password is where everybody can read it.
    PasswordInFile => "put it into a file and name that with --push-config",
}

/// The command that shows a master with its children.
pub(crate) fn tree_of(pid: i32) -> String {
    format!("fragscope attach --tree --pid {pid} shows them")
}

/// The commands that inspect a process again while it runs.
pub(crate) fn live_commands(pid: i32) -> [String; 3] {
    [
        format!("sudo fragscope attach --pid {pid}"),
        format!("sudo fragscope explain --pid {pid}"),
        format!("sudo fragscope attach --pid {pid} --headless --duration 1m -o worker.fragsnap"),
    ]
}

/// What shows a saved session.
pub(crate) const SAVED_COMMANDS: [&str; 3] = [
    "fragscope view worker.fragsnap",
    "fragscope report worker.fragsnap -o worker.html",
    "fragscope export worker.fragsnap --format json",
];

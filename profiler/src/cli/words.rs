//! The command line as people type it: a process may be given by its pid alone.

use std::ffi::{OsStr, OsString};

use clap::CommandFactory;

use super::args::Line;

/// What `PID` alone means.
const ATTACH: &str = "attach";
/// The default on a terminal: the processes, one of which can be chosen.
const CHOOSE: &str = "top";
/// Flag that names a process.
const PID: &str = "--pid";

/// The command line that is meant by these words, on a terminal or not.
pub(super) fn meant(words: Vec<OsString>, is_terminal: bool) -> Vec<OsString> {
    match words.as_slice() {
        [program] if is_terminal => vec![program.clone(), CHOOSE.into()],
        _ => with_pid(words),
    }
}

/// These words with `--pid` inserted before a process's pid if only that is given: `fragscope 4711`
/// attaches to it, and `fragscope explain 4711` explains it.
fn with_pid(words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| is_process(word)) {
        let (program, rest) = words.split_at(1);
        let named = [ATTACH.into(), PID.into()];
        return [program, &named, rest].concat();
    }
    match bare_number(&words) {
        Some(at) => {
            let (before, rest) = words.split_at(at);
            [before, &[PID.into()], rest].concat()
        }
        None => words,
    }
}

/// The position of a pid that is not the value of a flag, in a command that takes one and has none.
fn bare_number(words: &[OsString]) -> Option<usize> {
    let line = Line::command();
    let command = line.find_subcommand(words.get(1)?)?;
    let pid = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some("pid"))?;
    let mut found = None;
    let mut is_value = false;
    for (at, word) in words.iter().enumerate().skip(2) {
        let Some(text) = word.to_str().filter(|text| *text != "--") else {
            break;
        };
        if std::mem::take(&mut is_value) {
            continue;
        }
        let flag = command
            .get_arguments()
            .chain(line.get_arguments())
            .find(|arg| {
                let long = arg.get_long().zip(text.strip_prefix("--"));
                let short = arg.get_short().zip(text.strip_prefix('-'));
                long.is_some_and(|(long, given)| long == given)
                    || short.is_some_and(|(short, given)| given.chars().eq([short]))
            });
        match flag {
            Some(flag) if flag.get_id() == pid.get_id() => return None,
            Some(flag) => is_value = flag.get_action().takes_values(),
            None if found.is_none() && is_process(word) => found = Some(at),
            None => {}
        }
    }
    found
}

/// Whether this is a pid, even if a file has that name: anybody may have created the file, and its
/// owner can write `./4711`.
fn is_process(word: &OsStr) -> bool {
    let number = word.to_str().and_then(|text| text.parse::<i32>().ok());
    number.is_some_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let words = line.split_whitespace().map(OsString::from).collect();
        let words = meant(words, false).into_iter();
        let words: Vec<_> = words
            .map(|word| word.into_string().expect("text"))
            .collect();
        words.join(" ")
    }

    #[test]
    fn a_number_alone_is_the_process_of_every_command_that_takes_one() {
        for (typed, meant) in [
            ("fragscope 4711", "fragscope attach --pid 4711"),
            (
                "fragscope 4711 --headless",
                "fragscope attach --pid 4711 --headless",
            ),
            ("fragscope attach 4711", "fragscope attach --pid 4711"),
            (
                "fragscope attach --headless --interval 2s 4711 -o x.json",
                "fragscope attach --headless --interval 2s --pid 4711 -o x.json",
            ),
            (
                "fragscope explain 4711 --no-stop",
                "fragscope explain --pid 4711 --no-stop",
            ),
            (
                "fragscope check 4711 --max-rss 1",
                "fragscope check --pid 4711 --max-rss 1",
            ),
            (
                "fragscope record -o 4712 4711",
                "fragscope record -o 4712 --pid 4711",
            ),
        ] {
            assert_eq!(rewritten(typed), meant);
        }
    }

    #[test]
    fn nothing_at_all_offers_the_processes_to_choose_from_where_there_is_a_screen() {
        let alone = || vec![OsString::from("fragscope")];
        assert_eq!(meant(alone(), true), ["fragscope", "top"]);
        assert_eq!(meant(alone(), false), ["fragscope"]);
    }

    #[test]
    fn what_names_its_process_or_takes_none_is_left_as_it_is() {
        for line in [
            "fragscope",
            "fragscope top",
            "fragscope attach --pid 4711",
            "fragscope attach -p 4711 12",
            "fragscope attach --pid=4711",
            "fragscope explain x.fragsnap --at 3",
            "fragscope explain x.fragsnap --file-limit 300",
            "fragscope export 4711 --format json",
            "fragscope record -o x -- sleep 4711",
            "fragscope attach 0",
            "fragscope attach -4711",
            "fragscope unknown 4711",
        ] {
            assert_eq!(rewritten(line), line);
        }
    }
}

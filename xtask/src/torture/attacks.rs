//! Attacks that are tests of the product: each point of the threat model has some, named here, and
//! each must be there and pass.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::Stage;
use super::{Round, Tally};

/// Tests of one binary that hold one point.
struct Held {
    /// The attack, as SECURITY.md has it.
    point: &'static str,
    package: &'static str,
    /// An integration test, or "" for the library's own tests.
    binary: &'static str,
    tests: &'static [&'static str],
}

const HELD: &[Held] = &[
    Held {
        point: "the recorder's path, when fragscope is gone",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "whole_file::runtime_dir::tests::a_directory_that_others_may_write_to_is_refused_wherever_it_is_on_the_way",
            "whole_file::runtime_dir::tests::a_link_in_place_of_the_directory_is_refused",
            "whole_file::runtime_dir::tests::the_object_is_put_there_once_and_again_when_it_was_changed",
            "whole_file::runtime_dir::tests::many_that_find_a_damaged_object_at_once_all_get_a_whole_one",
            "whole_file::unused::tests::an_object_is_removed_once_no_process_can_load_it",
            "whole_file::unused::tests::an_object_that_is_mapped_but_not_in_the_environment_is_kept",
            "whole_file::unused::tests::one_that_is_used_meanwhile_is_kept",
            "whole_file::unused::tests::a_process_that_executes_another_program_just_now_may_get_any_environment",
        ],
    },
    Held {
        point: "processes with very much to read",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "whole_file::unused::tests::nothing_is_removed_where_a_limit_is_met",
            "whole_file::unused::tests::a_path_is_found_wherever_the_pieces_end",
        ],
    },
    Held {
        point: "a recording is forbidden by holding its lock",
        package: "fragscope",
        binary: "",
        tests: &["session::record::lock::tests::a_process_is_taken_once_until_it_is_given_up"],
    },
    Held {
        point: "a ring that the target scribbles on",
        package: "fragscope",
        binary: "",
        tests: &["session::record::source::tests::what_no_recorder_writes_is_no_event"],
    },
    Held {
        point: "processes and blocks that are made up",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "record::normaliser::tests::a_flood_of_forged_processes_and_threads_meets_a_limit_and_costs_little",
            "record::large::tests::large_blocks_of_all_processes_together_meet_a_limit",
        ],
    },
    Held {
        point: "a ring in which others' processes stand",
        package: "profiler-target",
        binary: "",
        tests: &["tree::tests::only_what_descends_from_this_process_is_of_the_tree"],
    },
    Held {
        point: "what a trace names is run",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "a_trace_makes_nobody_load_the_libraries_that_it_names",
            "the_recorded_allocator_is_loaded_when_it_is_allowed_and_nobody_elses",
        ],
    },
    Held {
        point: "players reach beyond themselves",
        package: "profiler-lab",
        binary: "replay",
        tests: &[
            "confined::a_player_cannot_write_connect_execute_or_reach_other_processes",
            "confined::one_that_plays_several_programs_executes_nothing_but_itself",
        ],
    },
    Held {
        point: "names prefer the current directory",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &["a_name_without_a_slash_is_never_a_file_of_the_current_folder"],
    },
    Held {
        point: "outputs follow links and replace devices",
        package: "fragscope",
        binary: "outputs",
        tests: &[
            "no_command_follows_a_link_or_replaces_a_device_a_pipe_or_a_folder",
            "no_command_follows_a_link_in_the_path_that_others_could_have_put_there",
            "every_command_writes_for_the_owner_alone_and_keeps_the_mode_of_what_it_replaces",
            "a_second_writer_of_the_same_file_is_refused_by_name",
            "a_kill_while_a_whole_file_is_written_leaves_nothing",
            "a_recording_is_readable_after_a_kill_and_keeps_what_was_there_until_it_has_begun",
            "no_command_replaces_what_it_reads",
        ],
    },
    Held {
        point: "outputs of root in others' directories",
        package: "fragscope",
        binary: "privileged_outputs",
        tests: &[
            "a_report_of_another_user_stays_that_users",
            "devices_are_neither_replaced_nor_written_to",
            "a_folder_that_is_swapped_for_a_link_leads_nowhere_else",
            "what_anybody_planted_in_a_shared_folder_is_not_filled_in",
            "nobody_else_can_keep_root_from_writing_or_from_noticing_a_second_writer",
        ],
    },
    Held {
        point: "control characters reach the terminal",
        package: "fragscope",
        binary: "foreign_text",
        tests: &[
            "a_hostile_process_is_shown_harmlessly_by_every_command",
            "a_hostile_command_is_recorded_and_replayed_harmlessly",
            "a_hostile_tracer_is_named_harmlessly",
            "errors_name_hostile_files_and_words_harmlessly",
        ],
    },
    Held {
        point: "hostile ELF files and cores",
        package: "fragscope",
        binary: "hostile_files",
        tests: &[
            "a_sparse_elf_of_a_terabyte_costs_neither_memory_nor_time_and_is_said",
            "very_many_small_files_cost_no_time_and_the_rest_is_named",
            "a_large_file_that_the_list_of_objects_names_again_and_again_is_read_once",
            "code_that_the_target_has_written_to_is_compared_up_to_a_limit_and_that_is_said",
            "a_core_that_claims_a_terabyte_costs_neither",
            "a_core_whose_parts_all_name_the_same_notes_is_refused",
            "a_pipe_or_a_device_in_the_place_of_a_file_is_not_opened",
        ],
    },
    Held {
        point: "bombs",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "a_bomb_stays_below_a_limit_of_memory_and_of_the_disk",
            "a_trace_that_wants_more_memory_than_there_is_ends_its_players_and_not_the_host",
            "a_trace_that_is_cut_off_is_said_by_export_and_replay_with_a_code_of_its_own",
        ],
    },
    Held {
        point: "losses that a recording claims",
        package: "profiler-lab",
        binary: "",
        tests: &[
            "report::tests::a_trace_may_lack_any_number_of_events",
            "calibrate::tests::known_causes_are_named",
        ],
    },
    Held {
        point: "losses beside the end of what can be read",
        package: "profiler-trace",
        binary: "",
        tests: &["limits::tests::what_was_lost_is_said_beside_why_reading_stopped"],
    },
    Held {
        point: "bombs of other tools' files",
        package: "profiler-trace",
        binary: "interchange",
        tests: &[
            "a_small_file_that_unpacks_to_gigabytes_is_read_up_to_a_limit",
            "a_file_that_names_more_blocks_than_fit_is_read_up_to_a_limit",
        ],
    },
    Held {
        point: "pipes that are deaf to signals",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "waits::a_signal_ends_the_wait_for_a_pipe",
            "waits::a_signal_ends_the_wait_for_a_reader",
        ],
    },
    Held {
        point: "a suspended fragscope keeps the target",
        package: "fragscope",
        binary: "privileged_process",
        tests: &[
            "a_target_runs_on_when_its_stopper_and_the_guard_are_both_suspended",
            "a_guard_is_found_neither_by_name_nor_by_session_nor_by_group_and_leaves_with_its_stopper",
        ],
    },
    Held {
        point: "control groups that freeze the target, or keep a guard from running",
        package: "fragscope",
        binary: "privileged_process",
        tests: &[
            "frozen::a_frozen_target_is_walked_called_frozen_and_goes_on_when_it_is_thawed",
            "frozen::a_guard_leaves_the_groups_that_keep_it_from_running",
        ],
    },
    Held {
        point: "the recorder's path and its lock",
        package: "fragscope",
        binary: "privileged_recorder_place",
        tests: &[
            "the_recorder_is_roots_own_all_the_way_and_stays_there",
            "a_program_that_starts_when_fragscope_is_gone_starts_silently",
            "a_ring_that_another_user_holds_out_is_not_written_to",
            "nobody_else_can_forbid_a_recording",
        ],
    },
    Held {
        point: "signals while a command is recorded",
        package: "fragscope",
        binary: "privileged_record_command",
        tests: &[
            "a_first_signal_is_answered_and_a_second_leaves_the_command",
            "an_interrupt_that_is_sent_to_fragscope_alone_ends_the_command",
            "a_signal_after_the_commands_end_leaves_its_code",
            "what_is_ignored_stays_ignored_in_fragscope_and_its_command",
            "no_signal_waits_for_a_sample_and_neither_does_the_end_after_it",
            "a_command_that_a_signal_ends_while_it_is_loaded_is_not_said_to_drop_the_recorder",
        ],
    },
    Held {
        point: "how a recorded command ends",
        package: "fragscope",
        binary: "privileged_record_command",
        tests: &[
            "it_ends_with_the_exit_code_of_its_command",
            "a_stop_is_not_taken_for_the_end_of_the_command_where_a_thread_traces_it",
            "a_daemon_is_recorded_to_its_end_and_that_is_said",
            "a_disk_that_fills_up_leaves_the_command_running_and_the_events_that_are_said_to_be_whole",
            "a_process_that_ends_or_executes_while_its_recording_begins_ends_it_with_5_and_a_sentence",
            "a_command_that_is_killed_for_want_of_memory_is_said_to_be",
        ],
    },
    Held {
        point: "terminals that are closed or stopped",
        package: "fragscope",
        binary: "stopped_terminal",
        tests: &[
            "a_recorded_program_goes_on_and_a_signal_ends_it_well",
            "a_session_ends_by_a_signal_and_saves_what_it_saw",
            "a_key_of_the_terminal_reaches_the_recorded_command_once",
        ],
    },
    Held {
        point: "a standard output that is closed, full, or the input",
        package: "fragscope",
        binary: "printing",
        tests: &[
            "what_cannot_be_printed_is_an_error_of_every_command",
            "a_reader_that_leaves_is_no_error_of_any_command",
            "nothing_is_printed_into_a_file_that_is_read",
        ],
    },
    Held {
        point: "damaged saved sessions",
        package: "profiler-trace",
        binary: "snapshot",
        tests: &[
            "a_damaged_record_costs_no_other",
            "a_damaged_header_costs_no_other_record",
            "bytes_between_records_cost_none_of_them",
            "blocks_that_claim_one_another_end_the_reading_at_its_limit",
            "what_unpacks_to_more_than_is_allowed_ends_the_reading",
        ],
    },
    Held {
        point: "saved sessions that are not whole",
        package: "fragscope",
        binary: "saved_session",
        tests: &[
            "a_session_that_is_cut_off_or_damaged_is_used_as_far_as_it_is_whole",
            "a_last_walk_of_an_unknown_form_hides_none_before_it",
            "a_kill_leaves_a_session_that_is_readable_to_its_last_walk",
        ],
    },
    Held {
        point: "a signal before the command is started",
        package: "fragscope",
        binary: "",
        tests: &[
            "session::signals::tests::one_that_has_come_is_found_without_waiting_and_none_where_none_came",
        ],
    },
    Held {
        point: "what a recorded program writes into the ring",
        package: "fragscope",
        binary: "privileged_record_ring",
        tests: &[
            "a_head_that_was_moved_far_is_moved_back_and_nothing_is_lost",
            "events_that_no_recorder_writes_are_counted_and_the_others_kept",
            "a_ring_that_is_scribbled_over_ends_the_recording_and_no_program",
            "a_ring_cannot_be_made_shorter",
            "what_the_reader_says_can_be_written_by_nobody_else",
            "nobody_is_held_up_for_longer_by_a_program_that_goes_on_forging",
            "a_thread_that_waits_for_a_full_ring_is_not_cancelled_there_and_keeps_its_errno",
            "a_slot_that_a_living_thread_never_fills_is_passed_by",
            "claims_in_the_name_of_a_living_thread_hold_up_the_others_for_a_bounded_time_in_all",
            "a_recording_ends_with_its_command_although_the_first_page_was_scribbled_over",
            "a_head_that_is_moved_back_all_the_time_ends_the_recording_and_no_program",
            "a_child_that_was_there_before_fragscope_is_never_sampled",
            "what_is_behind_an_event_that_is_never_written_is_kept_when_a_second_signal_ends_the_recording",
            "a_process_that_does_not_descend_from_the_command_is_never_sampled",
            "a_flood_of_forged_processes_costs_little_memory",
            "writers_that_are_killed_in_a_full_ring_hold_up_nobody",
        ],
    },
    Held {
        point: "breakpoints, when the profiler or its guard is killed",
        package: "fragscope",
        binary: "privileged_leftover",
        tests: &[
            "the_target_survives_a_killed_profiler",
            "no_breakpoint_is_left_by_a_profiler_that_is_killed_while_its_probes_go",
            "what_a_killed_guard_left_is_removed_by_the_session",
            "what_a_killed_guard_left_in_jemalloc_is_removed_by_the_session",
            "breakpoints_in_two_files_that_are_mapped_side_by_side_are_found_in_each",
            "a_breakpoint_that_nobody_holds_is_found_and_removed_and_one_in_use_stays",
            "a_suspended_guard_leaves_nothing_when_a_signal_ends_the_session",
            "a_guard_that_nothing_wakes_leaves_nothing_when_a_signal_ends_the_session",
            "a_guard_that_does_not_answer_is_ended_where_that_leaves_nothing",
            "a_guard_that_is_suspended_together_with_fragscope_leaves_nothing_for_long",
        ],
    },
    Held {
        point: "a guard that is suspended, between stops and in one",
        package: "profiler-target",
        binary: "process_stop",
        tests: &[
            "a_guard_that_was_suspended_between_two_stops_is_woken_by_the_next",
            "a_guard_that_cannot_be_woken_is_replaced",
            "the_kernel_ends_a_stop_whose_guard_is_suspended",
            "a_stop_whose_guards_never_run_is_given_up_within_one_patience",
            "a_program_that_executes_another_one_is_not_held_up_by_a_stop",
        ],
    },
    Held {
        point: "outputs of two that lock in different folders",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "whole_file::tests::what_another_one_writes_under_other_locks_is_left_alone_and_both_are_written",
            "whole_file::tests::a_draft_that_somebody_replaced_is_not_put_into_its_place",
        ],
    },
    Held {
        point: "processes of players where nobody waits for orphans",
        package: "fragscope",
        binary: "replay_command",
        tests: &[
            "players_leave_no_zombies_while_others_play_nor_when_one_crashes",
            "whoever_is_adopted_is_waited_for_whichever_group_it_is_in",
        ],
    },
    Held {
        point: "players that grow while nobody watches",
        package: "fragscope",
        binary: "replay_command",
        tests: &["players_are_suspended_while_fragscope_is"],
    },
    Held {
        point: "processes of players that crash",
        package: "profiler-lab",
        binary: "replay",
        tests: &[
            "processes::a_forked_process_that_crashes_is_noticed_at_once",
            "processes::a_forked_process_that_crashes_before_it_plays_is_noticed_at_once",
        ],
    },
    Held {
        point: "a target that dies while it is stopped",
        package: "profiler-target",
        binary: "process_stop",
        tests: &[
            "a_target_that_dies_while_it_is_stopped_is_reaped_by_its_parent_as_soon_as_the_stop_ends",
        ],
    },
    Held {
        point: "privileges that are lacking are named",
        package: "fragscope",
        binary: "privileged_access",
        tests: &[
            "root_without_a_capability_learns_which_one_is_lacking",
            "a_file_with_capabilities_says_which_are_lacking_or_why_they_are_not_granted",
            "a_missing_sys_or_proc_is_named",
        ],
    },
    Held {
        point: "targets that go at the start",
        package: "fragscope",
        binary: "gone",
        tests: &["a_target_that_goes_at_the_start_ends_every_command_with_5_and_a_sentence"],
    },
];

/// What one binary says of the tests that it ran: by name, whether it passed.
type Ran = BTreeMap<String, bool>;

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    tally.rounds = HELD.iter().map(|held| held.tests.len().max(1) as u64).sum();
    for held in HELD {
        let (ran, said) = ran(held)?;
        for test in held.tests {
            let mut round = Round::new(tally.seed);
            round.what = format!("{}: {} {} {test}", held.point, held.package, held.binary);
            match ran.get(*test) {
                Some(true) => {}
                Some(false) => round.fault("a test fails", *test),
                None => round.fault("a test is missing", *test),
            }
            if round.has_failed() {
                round.hear(said.clone());
            }
            tally.add(round);
        }
        if held.tests.is_empty() {
            let mut round = Round::new(tally.seed);
            round.what = held.point.to_owned();
            round.fault("no test holds this point", held.point);
            tally.add(round);
        }
        stage.go_on()?;
    }
    Ok(())
}

/// Runs the tests; gives also what the run said, for a failure.
fn ran(held: &Held) -> Result<(Ran, String)> {
    if held.tests.is_empty() {
        return Ok((Ran::new(), String::new()));
    }
    let mut command = Command::new("cargo");
    command.current_dir(crate::root());
    command.args(["test", "--package", held.package]);
    match held.binary {
        "" => command.arg("--lib"),
        binary => command.args(["--test", binary]),
    };
    // One after the other: probes and walks measure time.
    command.args(["--", "--exact", "--test-threads", "1", "--format", "pretty"]);
    command.args(held.tests);
    let output = command.output().context("cargo")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok((results(&printed), format!("{printed}\n{errors}")))
}

/// The results in libtest's output: `test NAME ... ok`, where a test that prints may come between.
fn results(printed: &str) -> Ran {
    let mut results = Ran::new();
    for line in printed.lines() {
        if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            // Ignored and unknown words are no success.
            results.insert(name.to_owned(), result.trim() == "ok");
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Whether this function is in a file of Rust, or in one of a folder's.
    fn has(path: &Path, function: &str) -> bool {
        if path.is_dir() {
            let mut all = std::fs::read_dir(path).expect("a folder").flatten();
            return all.any(|entry| has(&entry.path(), function));
        }
        path.extension().is_some_and(|ending| ending == "rs")
            && std::fs::read_to_string(path)
                .expect("UTF-8")
                .contains(&format!("fn {function}()"))
    }

    #[test]
    fn every_test_that_is_named_is_there() {
        for held in HELD {
            let package = match held.package {
                "fragscope" => "profiler",
                other => other,
            };
            let package = crate::root().join(package);
            for test in held.tests {
                let mut parts: Vec<&str> = test.split("::").collect();
                let function = parts.pop().expect("a name");
                let file = match parts.as_slice() {
                    [] => "main".to_owned(),
                    modules => modules.join("/"),
                };
                let binary = package.join("tests").join(held.binary);
                let place = match held.binary {
                    "" => package.join("src"),
                    _ if binary.is_dir() => binary.join(file).with_extension("rs"),
                    _ => binary.with_extension("rs"),
                };
                let found = place.exists() && has(&place, function);
                assert!(found, "{} {}: {test}", held.package, held.binary);
            }
        }
    }

    /// All points with what holds them, as the document has them.
    fn table() -> String {
        let mut table = String::from("| what is tried | held by the tests |\n| --- | --- |\n");
        for held in HELD {
            let place = match held.binary {
                "" => held.package.to_owned(),
                binary => format!("{} `{binary}`", held.package),
            };
            let tests: Vec<_> = held.tests.iter().map(|test| format!("`{test}`")).collect();
            table += &format!("| {} | {place}: {} |\n", held.point, tests.join(", "));
        }
        table
    }

    /// With `UPDATE_GOLDEN` set it is written anew.
    #[test]
    fn the_document_names_what_holds_each_point() {
        const BEGINS: &str = "## What holds which point\n\n";
        let path = crate::root().join("docs/reliability.md");
        let document = std::fs::read_to_string(&path).expect("the document");
        let (before, rest) = document.split_once(BEGINS).expect("its heading");
        let (found, after) = rest.split_once("\n\n").expect("what follows");
        let table = table();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let document = format!("{before}{BEGINS}{table}\n{after}");
            return std::fs::write(&path, document).expect("ours");
        }
        assert_eq!(format!("{found}\n"), table);
    }

    #[test]
    fn only_tests_that_ran_and_passed_count() {
        let printed =
            "\nrunning 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\n";
        let results = results(printed);
        assert_eq!(results.get("a::b"), Some(&true));
        assert_eq!(results.get("c"), Some(&false));
        assert_eq!(results.get("d"), Some(&false));
        assert_eq!(results.get("e"), None);
    }
}

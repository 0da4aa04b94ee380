//! The recorder, its ring and the commands that are recorded.

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        what: "the recorder's path, when fragscope is gone",
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
    Attack {
        what: "processes with very much to read",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "whole_file::unused::tests::nothing_is_removed_where_a_limit_is_met",
            "whole_file::unused::tests::a_path_is_found_wherever_the_pieces_end",
        ],
    },
    Attack {
        what: "a recording is forbidden by holding its lock",
        package: "fragscope",
        binary: "",
        tests: &["session::record::lock::tests::a_process_is_taken_once_until_it_is_given_up"],
    },
    Attack {
        what: "a ring that the target scribbles on",
        package: "fragscope",
        binary: "",
        tests: &["session::record::source::tests::what_no_recorder_writes_is_no_event"],
    },
    Attack {
        what: "processes and blocks that are made up",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "record::normaliser::tests::a_flood_of_forged_processes_and_threads_meets_a_limit_and_costs_little",
            "record::large::tests::large_blocks_of_all_processes_together_meet_a_limit",
        ],
    },
    Attack {
        what: "a ring in which others' processes stand",
        package: "profiler-target",
        binary: "",
        tests: &["tree::tests::only_what_descends_from_this_process_is_of_the_tree"],
    },
    Attack {
        what: "the recorder's path and its lock",
        package: "fragscope",
        binary: "privileged_recorder_place",
        tests: &[
            "the_recorder_is_roots_own_all_the_way_and_stays_there",
            "a_program_that_starts_when_fragscope_is_gone_starts_silently",
            "a_ring_that_another_user_holds_out_is_not_written_to",
            "nobody_else_can_forbid_a_recording",
        ],
    },
    Attack {
        what: "signals while a command is recorded",
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
    Attack {
        what: "how a recorded command ends",
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
    Attack {
        what: "a signal before the command is started",
        package: "fragscope",
        binary: "",
        tests: &[
            "session::signals::tests::one_that_has_come_is_found_without_waiting_and_none_where_none_came",
        ],
    },
    Attack {
        what: "what a recorded program writes into the ring",
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
    Attack {
        what: "what a recorded program says of the recording",
        package: "fragscope",
        binary: "privileged_record_unusual",
        tests: &[
            "nobody_leaves_a_recording_because_another_program_says_so",
            "how_many_left_is_not_believed_beyond_measure",
            "a_slot_that_was_given_up_is_one_lost_event_however_often_the_ring_goes_round",
        ],
    },
    Attack {
        what: "a program that forbids itself calls or the clock, copies itself, or allocates before it begins",
        package: "fragscope",
        binary: "privileged_record_unusual",
        tests: &[
            "a_sandboxed_program_lives_though_others_fill_the_ring",
            "a_thread_that_never_allocated_ends_a_program_behind_a_filter",
            "a_program_that_forbids_itself_the_clock_is_said_to_have_left",
            "a_copy_by_a_system_call_is_not_recorded_in_its_parents_name",
            "what_libraries_allocate_before_the_program_begins_is_recorded",
            "a_core_of_a_recorded_program_has_its_own_memory_alone",
        ],
    },
    Attack {
        what: "a recorded program in a PID namespace",
        package: "fragscope",
        binary: "privileged_record_command",
        tests: &["processes_of_another_pid_namespace_are_not_recorded_and_that_is_said"],
    },
    Attack {
        what: "a program that may do little when it ends",
        package: "fragscope",
        binary: "record_endings",
        tests: &["a_program_ends_as_it_does_alone_whatever_it_may_not_do_any_more"],
    },
    Attack {
        what: "a program that ends while fragscope is killed, or stands still",
        package: "fragscope",
        binary: "record_endings",
        tests: &[
            "record_endings::unanswered::a_program_that_ends_when_fragscope_was_killed_ends_as_it_would",
            "record_endings::unanswered::a_program_that_ends_while_fragscope_stands_still_ends_as_it_would_and_is_recorded",
        ],
    },
];

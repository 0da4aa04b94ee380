//! Targets, and what attaching leaves in them.

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        what: "control characters reach the terminal",
        package: "fragscope",
        binary: "foreign_text",
        tests: &[
            "a_hostile_process_is_shown_harmlessly_by_every_command",
            "a_hostile_command_is_recorded_and_replayed_harmlessly",
            "a_hostile_tracer_is_named_harmlessly",
            "errors_name_hostile_files_and_words_harmlessly",
        ],
    },
    Attack {
        what: "names that are not UTF-8",
        package: "fragscope",
        binary: "foreign_text",
        tests: &[
            "a_process_whose_names_are_not_utf_8_is_shown_like_any_other",
            "a_mount_point_that_is_not_utf_8_hides_no_control_group",
        ],
    },
    Attack {
        what: "a suspended fragscope keeps the target",
        package: "fragscope",
        binary: "privileged_process",
        tests: &[
            "a_target_runs_on_when_its_stopper_and_the_guard_are_both_suspended",
            "a_guard_is_found_neither_by_name_nor_by_session_nor_by_group_and_leaves_with_its_stopper",
        ],
    },
    Attack {
        what: "control groups that freeze the target, or keep a guard from running",
        package: "fragscope",
        binary: "privileged_process",
        tests: &[
            "privileged_process::frozen::a_frozen_target_is_walked_called_frozen_and_goes_on_when_it_is_thawed",
            "privileged_process::frozen::a_guard_leaves_the_groups_that_keep_it_from_running",
        ],
    },
    Attack {
        what: "terminals that are closed or stopped",
        package: "fragscope",
        binary: "stopped_terminal",
        tests: &[
            "a_recorded_program_goes_on_and_a_signal_ends_it_well",
            "a_session_ends_by_a_signal_and_saves_what_it_saw",
            "a_key_of_the_terminal_reaches_the_recorded_command_once",
            "a_terminal_that_is_closed_is_no_key",
        ],
    },
    Attack {
        what: "breakpoints, when the profiler or its guard is killed",
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
    Attack {
        what: "a guard that is suspended, between stops and in one",
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
    Attack {
        what: "a target that cannot be stopped",
        package: "profiler-sampling",
        binary: "stops",
        tests: &["a_target_that_cannot_be_stopped_is_asked_to_once_a_walk"],
    },
    Attack {
        what: "a target with very many threads",
        package: "profiler-target",
        binary: "process_stop_calls",
        tests: &["a_stop_opens_no_file_for_each_thread_and_asks_for_the_news_of_each_a_few_times"],
    },
    Attack {
        what: "a tracer that takes the name of a guard, and one that is another fragscope's",
        package: "profiler-target",
        binary: "process_stop",
        tests: &[
            "a_guard_that_holds_nothing_after_an_error_is_kept",
            "who_waits_for_another_fragscope_leaves_the_target_alone_and_keeps_its_guard",
        ],
    },
    Attack {
        what: "mapped files of a file system that does not answer",
        package: "fragscope",
        binary: "privileged_silent_files",
        tests: &[
            "files_that_nobody_answers_for_take_no_time_from_the_walks_of_others",
            "a_mapped_file_that_no_file_system_answers_for_keeps_no_command",
            "a_file_of_an_overlay_over_a_file_system_that_does_not_answer_keeps_no_command",
            "a_page_of_a_silent_file_to_which_memory_leads_is_not_touched",
            "a_root_directory_that_no_file_system_answers_for_keeps_no_command",
            "a_program_that_no_file_system_answers_for_keeps_no_command",
            "a_signal_ends_the_wait_for_a_file_system_that_does_not_answer",
            "a_file_system_that_goes_away_leaves_no_process",
            "a_file_of_a_file_system_that_answers_is_read_by_a_copy",
            "a_process_that_holds_the_lock_of_its_address_space_keeps_nobody_from_looking_at_others",
        ],
    },
    Attack {
        what: "silent files where memory is read of a process that runs",
        package: "profiler-target",
        binary: "",
        tests: &[
            "file_reader::memory::tests::a_page_that_nobody_answers_for_keeps_another_process",
        ],
    },
    Attack {
        what: "heaps that take for ever to walk",
        package: "profiler-sampling",
        binary: "long_walks",
        tests: &[
            "a_heap_that_takes_long_to_walk_is_walked_for_as_long_as_it_may_be",
            "nothing_is_read_when_there_is_no_time",
        ],
    },
    Attack {
        what: "processes of fragscope's own that are in use when it ends",
        package: "profiler-target",
        binary: "",
        tests: &["file_reader::tests::those_that_are_in_use_when_fragscope_ends_are_no_zombies"],
    },
    Attack {
        what: "pages that are not in memory, and vast mappings",
        package: "profiler-target",
        binary: "process_pages",
        tests: &[
            "a_page_that_is_not_in_memory_is_not_read_whoever_asks",
            "vast_mappings_are_not_looked_up_page_by_page",
        ],
    },
    Attack {
        what: "a process that has the target's memory and is not stopped with it",
        package: "profiler-target",
        binary: "process_pages",
        tests: &[
            "a_process_that_has_the_same_memory_and_runs_on_is_found",
            "whoever_has_the_same_memory_is_found_whenever_it_was_created",
        ],
    },
    Attack {
        what: "a process that was created since those of the host were asked for the target's memory",
        package: "profiler-target",
        binary: "",
        tests: &[
            "runs_on::numbers::tests::what_is_created_between_two_threads_has_a_number_between_theirs",
            "runs_on::numbers::tests::after_the_largest_number_the_smallest_are_given",
            "runs_on::numbers::tests::numbers_are_unknown_once_one_may_have_been_given_twice",
        ],
    },
    Attack {
        what: "a process that keeps the kernel from saying who has a target's memory",
        package: "profiler-target",
        binary: "",
        tests: &[
            "runs_on::left_behind::tests::while_one_waits_nothing_more_is_asked",
            "runs_on::left_behind::tests::one_that_ends_between_its_time_limit_and_the_note_of_it_is_not_waited_for_ever",
        ],
    },
    Attack {
        what: "processes of many users that hold the locks of their address spaces",
        package: "profiler-sampling",
        binary: "",
        tests: &[
            "host::answers::tests::others_are_asked_while_one_does_not_answer_and_it_is_asked_again_once_it_has",
            "host::answers::tests::one_user_keeps_a_bounded_number_of_threads_waiting_and_nobody_elses_processes",
            "host::answers::tests::many_users_together_keep_neither_root_nor_processes_that_have_answered_from_being_asked",
            "host::answers::tests::of_so_many_users_that_each_has_few_not_even_known_processes_are_asked_but_roots",
            "host::answers::tests::a_process_of_an_unknown_user_has_no_places_of_its_own_and_takes_nobody_elses",
            "host::answers::tests::a_question_that_was_left_behind_goes_on_beside_others_and_its_answer_is_nobody_elses",
        ],
    },
    Attack {
        what: "processes that take the locks of their address spaces while they are walked",
        package: "profiler-sampling",
        binary: "",
        tests: &[
            "host::tests::a_process_that_takes_its_lock_during_a_walk_is_marked_and_leaves_time_to_others",
            "host::tests::a_suspect_is_looked_into_later_and_after_ten_minutes_as_any_other",
            "host::tests::what_is_asked_quickly_marks_nobody",
            "host::silence::tests::a_wait_leaves_nine_times_as_long_to_others",
            "host::silence::tests::a_user_is_marked_for_ten_minutes_and_root_never",
            "host::watched::tests::a_process_is_suspect_while_it_or_another_of_its_user_was_silent_not_long_ago",
        ],
    },
    Attack {
        what: "a target whose memory a process has that is not stopped with it",
        package: "profiler-sampling",
        binary: "stops",
        tests: &["a_target_whose_memory_another_process_has_is_not_walked_before_that_has_ended"],
    },
    Attack {
        what: "very long lists of mounts, and numbers of devices that come again",
        package: "profiler-target",
        binary: "",
        tests: &[
            "tmpfs::tests::a_list_is_read_until_all_are_found_and_no_longer_than_permitted",
            "tmpfs::tests::a_device_is_looked_up_again_when_something_was_unmounted",
        ],
    },
    Attack {
        what: "mounts that would stay because fragscope has a list of them open",
        package: "profiler-target",
        binary: "",
        tests: &[
            "tmpfs::tests::the_mounts_of_a_process_that_is_gone_are_let_go",
            "tmpfs::tests::no_list_of_mounts_is_open_for_long_and_it_is_read_again_when_it_is_needed",
        ],
    },
    Attack {
        what: "many file systems that do not answer",
        package: "profiler-target",
        binary: "",
        tests: &[
            "file_reader::tests::files_that_others_answer_for_leave_processes_for_all_other_files",
        ],
    },
    Attack {
        what: "a target that dies while it is stopped",
        package: "profiler-target",
        binary: "process_stop",
        tests: &[
            "a_target_that_dies_while_it_is_stopped_is_reaped_by_its_parent_as_soon_as_the_stop_ends",
        ],
    },
    Attack {
        what: "privileges that are lacking are named",
        package: "fragscope",
        binary: "privileged_access",
        tests: &[
            "root_without_a_capability_learns_which_one_is_lacking",
            "a_file_with_capabilities_says_which_are_lacking_or_why_they_are_not_granted",
            "a_missing_sys_or_proc_is_named",
        ],
    },
    Attack {
        what: "limits of the place fragscope runs in",
        package: "fragscope",
        binary: "privileged_limits",
        tests: &[
            "few_threads_and_processes_make_no_report_wrong",
            "every_command_names_the_limit_of_threads_and_processes",
            "a_stop_for_which_the_kernel_gives_no_timer_is_not_said_to_be_ended_by_somebody",
            "a_proc_of_another_pid_namespace_is_named_and_no_command_is_blamed",
            "a_program_that_is_not_found_where_path_cannot_be_searched_is_not_to_be_made_executable",
        ],
    },
    Attack {
        what: "targets that go at the start",
        package: "fragscope",
        binary: "gone",
        tests: &["a_target_that_goes_at_the_start_ends_every_command_with_5_and_a_sentence"],
    },
];

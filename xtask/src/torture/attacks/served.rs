//! Who is served or reads what was kept, and what keeps running meanwhile.

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        what: "whoever connects to serve",
        package: "fragscope",
        binary: "privileged_serve",
        tests: &[
            "nobody_who_asks_badly_is_waited_for",
            "who_floods_it_keeps_no_other_address_from_an_answer",
            "names_of_others_are_escaped_and_promtool_has_nothing_to_object_to",
            "an_address_that_cannot_be_had_is_said_with_what_helps",
        ],
    },
    Attack {
        what: "floods from many addresses, of whoever says nothing and of whoever reads nothing",
        package: "fragscope",
        binary: "privileged_serve",
        tests: &[
            "a_flood_from_many_addresses_keeps_no_scraper_from_an_answer",
            "health_is_answered_at_an_address_of_its_own_and_nothing_else_is",
        ],
    },
    Attack {
        what: "sources that connect too often, and many that connect",
        package: "fragscope",
        binary: "",
        tests: &[
            "session::serve::connections::tests::a_source_that_connects_too_often_takes_nothing_from_another",
            "session::serve::connections::tests::many_connections_are_taken_at_once_and_then_one_each_step",
            "session::serve::connections::tests::room_is_made_at_the_expense_of_the_source_that_has_most",
            "session::serve::connections::tests::of_sources_with_few_connections_each_one_that_was_answered_before_stays",
            "session::serve::connections::tests::neither_who_says_nothing_nor_who_reads_nothing_takes_the_place_of_the_other",
            "session::serve::connections::tests::a_bounded_number_of_sources_is_remembered_and_the_last_ones_stay",
            "session::serve::http::tests::where_health_alone_is_served_nothing_else_is",
        ],
    },
    Attack {
        what: "floods of wrong passwords, over TLS",
        package: "fragscope",
        binary: "privileged_web_config",
        tests: &["who_was_found_right_waits_for_no_wrong_passwords_and_these_are_not_all_checked"],
    },
    Attack {
        what: "wrong passwords: how many wait, what is remembered, and what the time tells",
        package: "fragscope",
        binary: "",
        tests: &[
            "session::serve::users::tests::behind_as_many_passwords_as_may_wait_one_that_was_right_is_permitted_and_others_are_to_come_again",
            "session::serve::users::tests::one_source_does_not_take_all_places_and_who_goes_away_leaves_his",
            "session::serve::users::tests::what_was_right_stays_so_while_the_file_is_read_anew_until_its_hash_changes",
            "session::serve::users::tests::a_wrong_password_takes_as_long_whoever_it_is_for",
            "session::serve::users::tests::a_bounded_number_is_remembered",
        ],
    },
    Attack {
        what: "passwords, and files of the web config",
        package: "fragscope",
        binary: "privileged_web_config",
        tests: &[
            "who_has_the_password_is_served_over_tls_and_nobody_else",
            "a_certificate_and_a_password_that_change_are_used_without_a_restart",
            "a_config_that_becomes_a_pipe_is_not_opened_and_keeps_no_signal",
            "what_is_wrong_with_the_files_is_said_at_the_start",
        ],
    },
    Attack {
        what: "web configs that others can write, pipes and devices in their place",
        package: "fragscope",
        binary: "",
        tests: &[
            "session::serve::web_config::tests::a_file_that_others_can_write_is_not_used",
            "session::serve::web_config::tests::what_is_no_regular_file_is_neither_opened_nor_waited_for",
        ],
    },
    Attack {
        what: "names in metrics",
        package: "fragscope",
        binary: "",
        tests: &[
            "export::openmetrics::tests::values_of_labels_are_escaped_bounded_and_hold_no_control_characters",
        ],
    },
    Attack {
        what: "names in HTML pages",
        package: "fragscope",
        binary: "",
        tests: &[
            "export::html::tests::what_others_chose_is_shown_and_not_obeyed",
            "export::html::tests::it_has_its_parts_and_loads_nothing",
        ],
    },
    Attack {
        what: "the folder of a black box",
        package: "profiler-trace",
        binary: "black_box",
        tests: &[
            "what_is_not_its_own_is_neither_removed_nor_replaced",
            "a_folder_that_others_can_write_to_or_another_uses_is_refused",
            "a_name_is_harmless_whatever_a_program_is_called",
            "all_files_together_are_no_larger_than_they_may_be",
        ],
    },
    Attack {
        what: "black boxes on full disks and in shared folders",
        package: "fragscope",
        binary: "privileged_black_box",
        tests: &[
            "a_full_disk_is_said_what_is_there_stays_and_it_goes_on_when_there_is_room",
            "a_folder_that_others_can_write_to_is_no_place_for_it",
        ],
    },
    Attack {
        what: "processes that come, go and die under top",
        package: "fragscope",
        binary: "privileged_top",
        tests: &[
            "a_storm_of_short_lived_children_leaves_the_table_right_and_memory_flat",
            "processes_that_die_meanwhile_are_left_out",
        ],
    },
    Attack {
        what: "programs at tracepoints after a kill",
        package: "profiler-probe",
        binary: "privileged_growth",
        tests: &["a_killed_profiler_leaves_no_program_at_a_tracepoint"],
    },
    Attack {
        what: "files behind native stacks",
        package: "profiler-probe",
        binary: "privileged_native",
        tests: &[
            "code_of_no_file_ends_the_native_part_and_is_reported",
            "a_library_whose_file_was_removed_or_replaced_is_still_the_one_that_runs",
        ],
    },
];

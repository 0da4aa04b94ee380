//! Recordings that are replayed, and the players.

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        what: "what a trace names is run",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "a_trace_makes_nobody_load_the_libraries_that_it_names",
            "the_recorded_allocator_is_loaded_when_it_is_allowed_and_nobody_elses",
        ],
    },
    Attack {
        what: "players reach beyond themselves",
        package: "profiler-lab",
        binary: "replay",
        tests: &[
            "confined::a_player_cannot_write_connect_execute_or_reach_other_processes",
            "confined::one_that_plays_several_programs_executes_nothing_but_itself",
        ],
    },
    Attack {
        what: "names prefer the current directory",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &["a_name_without_a_slash_is_never_a_file_of_the_current_folder"],
    },
    Attack {
        what: "bombs",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "a_bomb_stays_below_a_limit_of_memory_and_of_the_disk",
            "a_trace_that_wants_more_memory_than_there_is_ends_its_players_and_not_the_host",
            "a_trace_that_is_cut_off_is_said_by_export_and_replay_with_a_code_of_its_own",
        ],
    },
    Attack {
        what: "losses that a recording claims",
        package: "profiler-lab",
        binary: "",
        tests: &[
            "report::tests::a_trace_may_lack_any_number_of_events",
            "calibrate::tests::known_causes_are_named",
        ],
    },
    Attack {
        what: "pipes that are deaf to signals",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &[
            "replay_hostile::waits::a_signal_ends_the_wait_for_a_pipe",
            "replay_hostile::waits::a_signal_ends_the_wait_for_a_reader",
        ],
    },
    Attack {
        what: "processes of players where nobody waits for orphans",
        package: "fragscope",
        binary: "replay_command",
        tests: &[
            "players_leave_no_zombies_while_others_play_nor_when_one_crashes",
            "whoever_is_adopted_is_waited_for_whichever_group_it_is_in",
        ],
    },
    Attack {
        what: "players that grow while nobody watches",
        package: "fragscope",
        binary: "replay_command",
        tests: &["players_are_suspended_while_fragscope_is"],
    },
    Attack {
        what: "players that would outlive fragscope",
        package: "fragscope",
        binary: "replay_hostile",
        tests: &["players_end_with_fragscope_whatever_was_loaded_into_them"],
    },
    Attack {
        what: "processes of players that crash",
        package: "profiler-lab",
        binary: "replay",
        tests: &[
            "processes::a_forked_process_that_crashes_is_noticed_at_once",
            "processes::a_forked_process_that_crashes_before_it_plays_is_noticed_at_once",
        ],
    },
];

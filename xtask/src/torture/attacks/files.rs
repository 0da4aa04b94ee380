//! Files that are read, and those that are written.

use super::Attack;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        what: "outputs follow links and replace devices",
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
            "no_command_writes_a_file_that_is_called_as_others_call_the_standard_output",
        ],
    },
    Attack {
        what: "outputs of root in others' directories",
        package: "fragscope",
        binary: "privileged_outputs",
        tests: &[
            "a_report_of_another_user_stays_that_users",
            "devices_are_neither_replaced_nor_written_to",
            "a_folder_that_is_swapped_for_a_link_leads_nowhere_else",
            "what_anybody_planted_in_a_shared_folder_is_not_filled_in",
            "what_is_written_over_a_file_that_anybody_can_have_moved_there_is_for_its_owner_alone",
            "the_file_of_locks_is_no_output",
            "nobody_else_can_keep_root_from_writing_or_from_noticing_a_second_writer",
        ],
    },
    Attack {
        what: "hostile ELF files and cores",
        package: "fragscope",
        binary: "hostile_files",
        tests: &[
            "a_sparse_elf_of_a_terabyte_costs_neither_memory_nor_time_and_is_said",
            "very_many_small_files_cost_no_time_and_the_rest_is_named",
            "very_many_mappings_with_the_longest_names_cost_neither_and_what_is_cut_is_said",
            "arguments_and_an_environment_of_gigabytes_cost_neither_fragscope_nor_the_target_anything",
            "a_large_file_that_the_list_of_objects_names_again_and_again_is_read_once",
            "code_that_the_target_has_written_to_is_compared_up_to_a_limit_and_that_is_said",
            "a_core_that_claims_a_terabyte_costs_neither",
            "a_core_whose_parts_all_name_the_same_notes_is_refused",
            "a_pipe_or_a_device_in_the_place_of_a_file_is_not_opened",
        ],
    },
    Attack {
        what: "losses beside the end of what can be read",
        package: "profiler-trace",
        binary: "",
        tests: &["limits::tests::what_was_lost_is_said_beside_why_reading_stopped"],
    },
    Attack {
        what: "bombs of other tools' files",
        package: "profiler-trace",
        binary: "interchange",
        tests: &[
            "a_small_file_that_unpacks_to_gigabytes_is_read_up_to_a_limit",
            "a_file_that_names_more_blocks_than_fit_is_read_up_to_a_limit",
        ],
    },
    Attack {
        what: "a standard output that is closed, full, or the input",
        package: "fragscope",
        binary: "printing",
        tests: &[
            "what_cannot_be_printed_is_an_error_of_every_command",
            "a_reader_that_leaves_is_no_error_of_any_command",
            "nothing_is_printed_into_a_file_that_is_read",
        ],
    },
    Attack {
        what: "damaged saved sessions",
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
    Attack {
        what: "saved sessions that are not whole",
        package: "fragscope",
        binary: "saved_session",
        tests: &[
            "a_session_that_is_cut_off_or_damaged_is_used_as_far_as_it_is_whole",
            "a_last_walk_of_an_unknown_form_hides_none_before_it",
            "a_kill_leaves_a_session_that_is_readable_to_its_last_walk",
        ],
    },
    Attack {
        what: "outputs of two that lock in different folders",
        package: "profiler-trace",
        binary: "",
        tests: &[
            "whole_file::tests::what_another_one_writes_under_other_locks_is_left_alone_and_both_are_written",
            "whole_file::tests::a_draft_that_somebody_replaced_is_not_put_into_its_place",
        ],
    },
];

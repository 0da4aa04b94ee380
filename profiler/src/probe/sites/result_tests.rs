use super::*;

#[test]
fn exactly_one_bit_of_each_set() {
    assert_eq!(one_of_each(&[]), Some(0));
    assert_eq!(one_of_each(&[0, 0b1]), Some(0b1));
    // The first bit alone would do for the first two, but not with the third.
    assert_eq!(one_of_each(&[0b011, 0b110, 0b100]), Some(0b101));
    assert_eq!(one_of_each(&[0b01, 0b10, 0b11]), None);
}

//! Preconditions, one by one and in their order.

use proptest::prelude::*;

use super::*;

const TAG: &str = "\"abc\"";

fn verdict(fields: &[(&'static str, &str)]) -> Verdict {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    let modified = UNIX_EPOCH + Duration::from_millis(784_111_777_500);
    let has = Validators {
        etag: TAG,
        modified,
    };
    evaluate(&headers, has)
}

fn check(fields: &[(&'static str, &str)], expected: Verdict) {
    assert_eq!(verdict(fields), expected, "{fields:?}");
}

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

#[test]
fn tags() {
    check(&[], Verdict::Proceed);
    check(&[("if-none-match", TAG)], Verdict::NotModified);
    check(&[("if-none-match", "W/\"abc\"")], Verdict::NotModified);
    check(&[("if-none-match", "\"x\", \"abc\"")], Verdict::NotModified);
    check(
        &[("if-none-match", "\"x\",,\t\"abc\"")],
        Verdict::NotModified,
    );
    check(
        &[("if-none-match", "\"x\""), ("if-none-match", TAG)],
        Verdict::NotModified,
    );
    check(&[("if-none-match", "*")], Verdict::NotModified);
    check(&[("if-none-match", "\"x\"")], Verdict::Proceed);
    check(&[("if-none-match", "abc")], Verdict::Proceed);
    check(&[("if-match", TAG)], Verdict::Proceed);
    check(&[("if-match", "*")], Verdict::Proceed);
    check(&[("if-match", "W/\"abc\"")], Verdict::Failed);
    check(&[("if-match", "W/\"abc\", \"abc\"")], Verdict::Proceed);
    check(&[("if-match", "\"x\"")], Verdict::Failed);
    check(&[("if-match", "")], Verdict::Failed);
}

#[test]
fn a_tag_with_a_comma_is_one_tag() {
    check(&[("if-none-match", "\"x,\"abc\"")], Verdict::Proceed);
    check(
        &[("if-none-match", "\"x, y\", \"abc\"")],
        Verdict::NotModified,
    );
    // A star is no tag among others.
    check(&[("if-none-match", "\"x\", *")], Verdict::Proceed);
    check(&[("if-match", "\"*\"")], Verdict::Failed);
}

#[test]
fn dates_count_only_without_tags() {
    check(&[("if-modified-since", THEN)], Verdict::NotModified);
    check(&[("if-modified-since", BEFORE)], Verdict::Proceed);
    check(&[("if-modified-since", "yesterday")], Verdict::Proceed);
    check(
        &[("if-modified-since", THEN), ("if-modified-since", THEN)],
        Verdict::Proceed,
    );
    check(
        &[("if-modified-since", THEN), ("if-none-match", "\"x\"")],
        Verdict::Proceed,
    );
    check(&[("if-unmodified-since", THEN)], Verdict::Proceed);
    check(&[("if-unmodified-since", BEFORE)], Verdict::Failed);
    check(
        &[("if-unmodified-since", BEFORE), ("if-match", TAG)],
        Verdict::Proceed,
    );
    // The other two forms of dates that must be understood (RFC 9110, 5.6.7).
    check(
        &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")],
        Verdict::NotModified,
    );
    check(
        &[("if-modified-since", "Sun Nov  6 08:49:37 1994")],
        Verdict::NotModified,
    );
}

#[test]
fn what_must_match_comes_before_what_must_not() {
    check(
        &[("if-match", "\"x\""), ("if-none-match", TAG)],
        Verdict::Failed,
    );
    check(
        &[("if-none-match", TAG), ("if-range", "\"x\"")],
        Verdict::NotModified,
    );
    check(
        &[("if-match", TAG), ("if-none-match", TAG)],
        Verdict::NotModified,
    );
}

#[test]
fn a_range_of_another_content_becomes_the_whole() {
    check(&[("if-range", TAG)], Verdict::Proceed);
    check(&[("if-range", "W/\"abc\"")], Verdict::ProceedWhole);
    check(&[("if-range", "\"x\"")], Verdict::ProceedWhole);
    check(&[("if-range", THEN)], Verdict::ProceedWhole);
    check(&[("if-range", "")], Verdict::ProceedWhole);
    check(
        &[("if-range", TAG), ("if-range", TAG)],
        Verdict::ProceedWhole,
    );
}

proptest! {
    #[test]
    fn tags_and_their_absence_are_opposites(value in "(W/)?\"[a-c,]{0,4}\"(, ?(W/)?\"[a-c]{0,4}\"){0,3}") {
        let has_it = verdict(&[("if-none-match", &value)]) == Verdict::NotModified;
        if !has_it {
            prop_assert_eq!(verdict(&[("if-match", &value)]), Verdict::Failed);
        }
        prop_assert!(!has_it || value.contains(TAG));
    }

    #[test]
    fn any_value_has_a_verdict(name in 0_usize..5, value in "[ -~]{0,30}") {
        let names = ["if-match", "if-none-match", "if-range", "if-modified-since", "if-unmodified-since"];
        verdict(&[(names[name], &value)]);
    }
}

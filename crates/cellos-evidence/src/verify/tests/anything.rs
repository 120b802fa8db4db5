//! Whatever stands in a file.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_make_it_panic(text in prop::collection::vec(any::<u8>(), 1..600)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, &text).unwrap();
        if let Ok(summary) = verify(&path, &Checks::default(), &mut Silent) {
            prop_assert!(!summary.is_well());
        }
    }

    #[test]
    fn any_change_of_a_signed_log_is_found(
        start in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let lines = signed();
        let text = lines.concat();
        let start = start.index(text.len());
        let end = (start + removed).min(text.len());
        let changed = [&text[..start], &inserted, &text[end..]].concat();
        prop_assume!(changed != text);
        let checked = check_with_head(&changed, head_of(&lines));
        prop_assert!(!checked.summary.is_well());
    }

    #[test]
    fn any_rearrangement_of_lines_is_found(
        order in prop::collection::vec(0_usize..6, 1..10),
    ) {
        let lines = signed();
        prop_assume!(order != [0, 1, 2, 3, 4, 5]);
        let changed: Vec<_> = order.iter().flat_map(|index| lines[*index].clone()).collect();
        let checked = check_with_head(&changed, head_of(&lines));
        prop_assert!(!checked.summary.is_well());
    }
}

//! The normaliser and what reads its output.

use std::sync::LazyLock;

use classifier::Model;
use proptest::prelude::*;
use shield::normalise::{Limits, Normal, normalise};

use super::config;
use super::fragments::text;

static MODEL: LazyLock<Model> = LazyLock::new(|| Model::from_bytes(classifier::WEIGHTS).unwrap());

/// Output within its limits, views in order, every span of the folded text inside the text as sent
/// and at its characters.
pub(super) fn sound(text: &str, normal: &Normal, limits: &Limits) {
    let output = normal.text.len() + normal.views.iter().map(|view| view.text.len()).sum::<usize>();
    assert!(output <= limits.max_output, "{text:?}: {output} bytes");
    assert!(normal.views.len() <= limits.max_views, "{text:?}");
    let whole = |span: &std::ops::Range<usize>| text.get(span.clone()).is_some();
    let mut end = 0;
    for view in &normal.views {
        assert!(
            view.at.start >= end && normal.text.get(view.at.clone()).is_some(),
            "{text:?}: {view:?}"
        );
        assert!(
            whole(&view.span) && (1..=limits.max_depth.max(1)).contains(&view.depth),
            "{text:?}: {view:?}"
        );
        end = view.at.end;
    }
    let bounds: Vec<usize> =
        normal.text.char_indices().map(|(at, _)| at).chain([normal.text.len()]).collect();
    let step = bounds.len() / 64 + 1;
    for pair in bounds.iter().step_by(step).zip(bounds.iter().skip(1).step_by(step)) {
        let one = normal.original(*pair.0..*pair.1);
        let (before, behind) =
            (normal.original(0..*pair.0), normal.original(*pair.0..normal.text.len()));
        for span in [one, before, behind] {
            assert!(whole(&span), "{text:?}: {span:?}");
        }
    }
    let last = bounds[bounds.len() / 2];
    assert!(
        whole(&normal.original(last..usize::MAX))
            && whole(&normal.original(usize::MAX..usize::MAX)),
        "{text:?}"
    );
    let plain: usize = normal.plain().map(str::len).sum();
    assert!(plain <= output);
}

fn limits() -> impl Strategy<Value = Limits> {
    let small = (0..200usize, 0..300usize, 0..4usize, 0..5u8).prop_map(
        |(max_input, max_output, max_views, max_depth)| Limits {
            max_input,
            max_output,
            max_views,
            max_depth,
        },
    );
    prop_oneof![Just(Limits::default()), small]
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn the_normaliser_keeps_its_limits_and_its_map(text in text(), limits in limits()) {
        let normal = normalise(&text, &limits);
        sound(&text, &normal, &limits);
        if !normal.truncated && text.is_ascii() {
            prop_assert_eq!(&normal.text, &text);
        }
    }

    #[test]
    fn the_classifiers_always_answer(text in text()) {
        let normal = normalise(&text, &Limits::default());
        let scores = MODEL.score(&normal);
        prop_assert!((0.0..=1.0).contains(&scores.injection) && (0.0..=1.0).contains(&scores.worst_toxicity()), "{:?}: {:?}", text, scores);
        prop_assert_eq!(MODEL.score(&normal), scores);
    }
}

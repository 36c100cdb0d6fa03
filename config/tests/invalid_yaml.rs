//! Explanations of text that is not valid YAML.

fn told(text: &str) -> String {
    config::parse("f", text).expect_err("not valid").to_string()
}

#[test]
fn usual_mistakes_are_named() {
    for (text, wanted) in [
        ("backends:\n\t- name: a\n", "line 2 is indented with a tab; use spaces"),
        ("backends:\n  - name: a\n\turl: x\n", "line 3 is indented with a tab; use spaces"),
        (
            "backends:\n  - name: a\n    url: http://x\n    weight: 1\n    url: http://y\n",
            "f:5:5: not valid YAML: the key \"url\" is there twice, first in line 3",
        ),
        ("workers: 1\nzone: x\nworkers: 2\n", "\"workers\" is there twice, first in line 1"),
        ("admin: {address: x, address: y}\n", "the key \"address\" is there twice"),
        ("admin: {\"address\": x, \"address\": y}\n", "the key \"address\" is there twice"),
        (
            "backends:\n  - {name: a, url: 'http://x'\nroutes: []\n",
            "the { of 2:5 is not closed here",
        ),
        ("backends: [\n", "the [ of 1:11 is not closed here"),
        ("backends: [{name: a]\n", "the { of 1:12 is not closed here"),
        ("backends: [{name: a, url: \"http://b\"]\nzone: x\n", "the { of 1:12 is not closed here"),
        ("backends: {name: [a}\n", "the [ of 1:18 is not closed here"),
        ("zone: ${A}\nadmin: {address: \"{\"\n", "the { of 2:8 is not closed here"),
        ("zone: \"a\nworkers: 1\n", "the \" of 1:7 is not closed"),
        ("backends:\n    - name: a\n   - name: b\n", "line 3 is indented by 3, line 2 by 4"),
    ] {
        let got = told(text);
        assert!(got.contains(wanted), "{text:?}: {got}");
    }
}

/// The hints are for text that is not valid only.
#[test]
fn every_cut_of_a_file_is_explained_without_a_panic() {
    let text = config::example();
    for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)).step_by(97) {
        let _ = config::parse("f", &text[..cut]);
    }
}

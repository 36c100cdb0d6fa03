use super::*;

fn sections() -> Vec<&'static Section> {
    let mut all = vec![&ROOT, &KEYS];
    let mut at = 0;
    while let Some(section) = all.get(at).copied() {
        at += 1;
        for field in section.fields {
            if let Kind::Section(inner) | Kind::List(inner) = field.kind {
                all.push(inner);
            }
        }
    }
    all
}

#[test]
fn every_field_has_help_that_is_a_sentence() {
    for field in sections().iter().flat_map(|section| section.fields) {
        assert!(field.doc.ends_with('.') && field.doc.len() > 8, "{}: {:?}", field.name, field.doc);
        assert!(
            !field.doc.starts_with(char::is_lowercase) || field.doc.contains(": "),
            "{}: {:?}",
            field.name,
            field.doc
        );
    }
}

/// An old key that another field has would be read as that field.
#[test]
fn no_old_key_is_in_use() {
    for section in sections() {
        for old in section.fields.iter().map(|field| field.was).filter(|was| !was.is_empty()) {
            assert!(
                section.fields.iter().all(|field| field.name != old),
                "{old} in {:?}",
                section.doc
            );
        }
    }
}

//! Settings of stored prompts and answers.

use crate::{Kind, Section, field};

/// `contents`
pub static CONTENTS: Section = Section {
    doc: "Prompts and answers of routes with `store_contents: redacted`, in files apart from all records, encrypted with AES-256-GCM: docs/observability.md. Each read is a line of the audit log.",
    fields: &[
        field(
            "path",
            Kind::Text,
            "",
            "Folder of the files, which is created if it does not exist. Default: none, nothing is stored. Needs `audit.file`. Only the user of the process can read it.",
        ),
        field(
            "key",
            Kind::Secret,
            "",
            "Key of the files: 64 hexadecimal digits, as `openssl rand -hex 32` prints. Required with `path`. A lost key makes the files unreadable.",
        ),
        field(
            "previous_keys",
            Kind::Secret,
            "",
            "Earlier keys, separated by commas. They only open files that were written with them. Default: none.",
        ),
        field(
            "keep",
            Kind::Duration,
            "7d",
            "Maximum age of a stored prompt or answer, at least 1m. A file is removed when its first request is so old; its last one is up to an hour younger, and up to a 24th of this if that is less.",
        ),
        field(
            "max_size",
            Kind::Size,
            "1GiB",
            "Maximum size of the folder, at least 16MiB. The oldest files are removed beyond it.",
        ),
        field(
            "max_text",
            Kind::Size,
            "64KiB",
            "Maximum bytes stored of a prompt, and of an answer, from 1KiB to 1MiB. Of a longer prompt, the last texts are stored; of a longer answer, the beginning.",
        ),
    ],
};

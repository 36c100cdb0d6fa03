//! What real engines sent, as bodies without their transfer coding.

use std::path::Path;

use http1::head::{self, HeadLimits};
use http1::{BodyReader, Progress};
use serde_json::Value;
use wire::{Dialect, Framing};

/// The body of a recorded answer.
pub struct Body {
    pub name: String,
    pub dialect: Dialect,
    pub framing: Framing,
    pub bytes: Vec<u8>,
    /// It ended as its protocol requires.
    pub complete: bool,
}

/// All streams of status 200.
pub fn streams() -> Vec<Body> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/captures");
    let mut files = Vec::new();
    for engine in
        std::fs::read_dir(root).expect("captures").flatten().filter(|entry| entry.path().is_dir())
    {
        let cases = std::fs::read_dir(engine.path())
            .expect("an engine's captures")
            .flatten()
            .map(|entry| entry.path());
        files.extend(cases.filter(|path| path.extension().is_some_and(|end| end == "json")));
    }
    files.sort();
    files.iter().filter_map(|file| body(file)).collect()
}

fn body(file: &Path) -> Option<Body> {
    let meta: Value =
        serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON");
    let expected = &meta["expected"];
    let dialect = match expected["protocol"].as_str()? {
        "tgi-generate" => Dialect::Generate,
        "ollama-chat" => Dialect::Ollama,
        name => Dialect::from_name(name)?,
    };
    let raw = std::fs::read(file.with_extension("http")).expect("readable");
    let len = head::find_end(&raw, 0, HeadLimits::default()).ok()??;
    let mut fields = head::field_buffer();
    let head =
        head::parse_response(raw.get(..len)?, &mut fields, HeadLimits::default(), false).ok()?;
    let kind = head
        .get("content-type")
        .and_then(|kind| std::str::from_utf8(kind).ok())
        .unwrap_or_default();
    let framing = Framing::from_content_type(kind);
    if head.line.status != 200 || !matches!(framing, Framing::Sse | Framing::Ndjson) {
        return None;
    }
    let (mut reader, mut rest, mut bytes) =
        (BodyReader::new(head.framing), raw.get(len..)?, Vec::new());
    while let Ok(Progress::Data { skip, len }) = reader.next(rest) {
        bytes.extend_from_slice(rest.get(skip..skip + len)?);
        rest = rest.get(skip + len..)?;
    }
    Some(Body {
        name: file.display().to_string(),
        dialect,
        framing,
        bytes,
        complete: expected["complete"] == true,
    })
}

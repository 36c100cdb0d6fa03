//! Tiny classifiers that the tests make: a folder with a `model.onnx` and a `tokenizer.json`.
//!
//! - *In*: what shall be odd about the model.
//! - *Out*: [`Home`], the folder, and [`Home::settings`] for it; the folder goes when the value
//!   does.
//! - *Never*: a trained weight: "good" points one way, "bad" the other, every other word nowhere.

use crate::graph::{Attribute, Dim, FLOAT, Graph, INT64};
use onnx::{Classifier, LoadError, Settings};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const WORDS: [&str; 10] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "fine", "bad", "awful", "table", "##ish"];
pub const ANY: [Dim; 2] = [Dim::Symbol("batch_size"), Dim::Symbol("sequence_length")];
pub const LOGITS: [Dim; 2] = [Dim::Symbol("batch_size"), Dim::Fixed(2)];
const AXIS_1: &str = "axis_1";

/// By word: how good, how bad. The size of one entry is the size of the embedding.
fn embeddings() -> Vec<f32> {
    let row = |word: &str| match word {
        "good" | "fine" => [1.0, 0.0],
        "bad" | "awful" => [0.0, 1.0],
        _ => [0.0, 0.0],
    };
    WORDS.iter().flat_map(|word| row(word)).collect()
}

/// The three inputs of a BERT, or the first two of them.
pub fn inputs(graph: &mut Graph, shape: &[Dim], types: bool) {
    graph.input("input_ids", INT64, shape).input("attention_mask", INT64, shape);
    if types {
        graph.input("token_type_ids", INT64, shape);
    }
}

/// The embedding of each word, of shape `[batch, sequence, 2]`, under the name `words`.
pub fn embed(graph: &mut Graph, types: bool) {
    graph.floats("word_table", &[WORDS.len() as i64, 2], &embeddings());
    if types {
        // A text of the second type would count as very bad: so a wrong type shows.
        graph.floats("type_table", &[2, 2], &[0.0, 0.0, 0.0, 50.0]);
        graph.node("Gather", &["word_table", "input_ids"], "bare_words", &[]);
        graph.node("Gather", &["type_table", "token_type_ids"], "word_types", &[]);
        graph.node("Add", &["bare_words", "word_types"], "words", &[]);
    } else {
        graph.node("Gather", &["word_table", "input_ids"], "words", &[]);
    }
}

/// The mean of `words` where the mask is 1, then the linear layer to the logits of
/// `[safe, unsafe]`.
pub fn judge(graph: &mut Graph, words: &str) {
    graph.ints(AXIS_1, &[1], &[1]).ints("axis_2", &[1], &[2]);
    graph.node("Cast", &["attention_mask"], "mask", &[Attribute::Int("to", FLOAT)]);
    graph.node("Unsqueeze", &["mask", "axis_2"], "wide_mask", &[]);
    graph.node("Mul", &[words, "wide_mask"], "masked", &[]);
    graph.node("ReduceSum", &["masked", AXIS_1], "sum", &[Attribute::Int("keepdims", 0)]);
    graph.node("ReduceSum", &["mask", AXIS_1], "count", &[Attribute::Int("keepdims", 1)]);
    graph.node("Div", &["sum", "count"], "mean", &[]);
    linear(graph, "mean", &[4.0, 0.0, 0.0, 80.0]);
}

/// `logits` from `pooled` of shape `[batch, 2]`; the bias leans to safe.
pub fn linear(graph: &mut Graph, pooled: &str, weights: &[f32; 4]) {
    graph.floats("weights", &[2, 2], weights).floats("bias", &[2], &[1.0, -1.0]);
    graph.node("MatMul", &[pooled, "weights"], "product", &[]);
    graph.node("Add", &["product", "bias"], "logits", &[]);
    graph.output("logits", FLOAT, &LOGITS);
}

/// The plain model over windows of `shape`.
pub fn model(shape: &[Dim], types: bool) -> Vec<u8> {
    let mut graph = Graph::default();
    inputs(&mut graph, shape, types);
    embed(&mut graph, types);
    judge(&mut graph, "words");
    graph.file()
}

/// WordPiece in lower case with `[CLS]` and `[SEP]` around, as BERT has it.
pub fn wordpiece() -> String {
    let special = |id: usize, word: &str| {
        format!(r#""{word}":{{"id":"{word}","ids":[{id}],"tokens":["{word}"]}}"#)
    };
    format!(
        r###"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":{{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}},
        "pre_tokenizer":{{"type":"BertPreTokenizer"}},
        "post_processor":{{"type":"TemplateProcessing",
            "single":[{{"SpecialToken":{{"id":"[CLS]","type_id":0}}}},{{"Sequence":{{"id":"A","type_id":0}}}},{{"SpecialToken":{{"id":"[SEP]","type_id":0}}}}],
            "pair":[{{"Sequence":{{"id":"A","type_id":0}}}},{{"Sequence":{{"id":"B","type_id":1}}}}],
            "special_tokens":{{{},{}}}}},
        "decoder":null,
        "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{{{}}}}}}}"###,
        special(2, "[CLS]"),
        special(3, "[SEP]"),
        vocabulary()
    )
}

/// Whole words and no frame: an empty text has no tokens at all.
pub fn wordlevel() -> String {
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","unk_token":"[UNK]","vocab":{{{}}}}}}}"#,
        vocabulary()
    )
}

fn vocabulary() -> String {
    WORDS
        .iter()
        .enumerate()
        .map(|(id, word)| format!(r#""{word}":{id}"#))
        .collect::<Vec<_>>()
        .join(",")
}

/// A folder of its own for each test.
pub struct Home(PathBuf);

impl Home {
    pub fn new(model: &[u8], tokenizer: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("judge-onnx-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("model.onnx"), model).unwrap();
        std::fs::write(path.join("tokenizer.json"), tokenizer).unwrap();
        Self(path)
    }

    /// The plain model with BERT's tokenizer.
    pub fn plain() -> Self {
        Self::new(&model(&ANY, true), &wordpiece())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Windows of 16 tokens, 14 of them text, 4 shared.
    pub fn settings(&self) -> Settings {
        let labels = vec!["safe".to_owned(), "unsafe".to_owned()];
        Settings {
            max_tokens: 16,
            overlap: 4,
            ..Settings::new(self.0.join("model.onnx"), self.0.join("tokenizer.json"), labels)
        }
    }

    pub fn load(&self) -> Result<Classifier, LoadError> {
        Classifier::load(&self.settings())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

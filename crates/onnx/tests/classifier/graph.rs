//! A writer of ONNX files, as much of the protobuf as the tests need.
//!
//! - *In*: nodes, constants, inputs and outputs, added one by one.
//! - *Out*: the bytes of a `model.onnx`.
//! - *Never*: a check; broken models are wanted too.

pub const FLOAT: i64 = 1;
pub const INT32: i64 = 6;
pub const INT64: i64 = 7;

/// One dimension of an input or output.
#[derive(Clone, Copy)]
pub enum Dim {
    Fixed(i64),
    Symbol(&'static str),
}

/// An attribute of a node.
pub enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, &'static [i64]),
}

/// A graph in the making: the fields of `GraphProto` in wire format.
#[derive(Default)]
pub struct Graph {
    fields: Vec<u8>,
}

impl Graph {
    pub fn input(&mut self, name: &str, kind: i64, shape: &[Dim]) -> &mut Self {
        nested(&mut self.fields, 11, &value_info(name, kind, shape));
        self
    }

    pub fn output(&mut self, name: &str, kind: i64, shape: &[Dim]) -> &mut Self {
        nested(&mut self.fields, 12, &value_info(name, kind, shape));
        self
    }

    /// A node with one output, which gives it its name.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[Attribute],
    ) -> &mut Self {
        let mut node = Vec::new();
        for input in inputs {
            nested(&mut node, 1, input.as_bytes());
        }
        nested(&mut node, 2, output.as_bytes());
        nested(&mut node, 3, output.as_bytes());
        nested(&mut node, 4, op.as_bytes());
        for attribute in attributes {
            nested(&mut node, 5, &attribute_field(attribute));
        }
        nested(&mut self.fields, 1, &node);
        self
    }

    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) -> &mut Self {
        self.tensor(
            name,
            FLOAT,
            dims,
            &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(),
        )
    }

    pub fn ints(&mut self, name: &str, dims: &[i64], values: &[i64]) -> &mut Self {
        self.tensor(
            name,
            INT64,
            dims,
            &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(),
        )
    }

    fn tensor(&mut self, name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> &mut Self {
        let mut tensor = tensor_head(name, kind, dims);
        nested(&mut tensor, 9, raw);
        nested(&mut self.fields, 5, &tensor);
        self
    }

    /// A tensor whose data lies in another file.
    pub fn external(&mut self, name: &str, dims: &[i64], location: &str) -> &mut Self {
        let mut tensor = tensor_head(name, FLOAT, dims);
        let mut entry = Vec::new();
        nested(&mut entry, 1, b"location");
        nested(&mut entry, 2, location.as_bytes());
        nested(&mut tensor, 13, &entry);
        number(&mut tensor, 14, 1);
        nested(&mut self.fields, 5, &tensor);
        self
    }

    /// The whole file, for operator set 13.
    pub fn file(&self) -> Vec<u8> {
        let mut opset = Vec::new();
        nested(&mut opset, 1, b"");
        number(&mut opset, 2, 13);
        let mut graph = self.fields.clone();
        nested(&mut graph, 2, b"tiny");
        let mut model = Vec::new();
        number(&mut model, 1, 8);
        nested(&mut model, 8, &opset);
        nested(&mut model, 7, &graph);
        model
    }
}

fn tensor_head(name: &str, kind: i64, dims: &[i64]) -> Vec<u8> {
    let mut tensor = Vec::new();
    for dim in dims {
        number(&mut tensor, 1, *dim);
    }
    number(&mut tensor, 2, kind);
    nested(&mut tensor, 8, name.as_bytes());
    tensor
}

fn value_info(name: &str, kind: i64, shape: &[Dim]) -> Vec<u8> {
    let mut dims = Vec::new();
    for dim in shape {
        let mut field = Vec::new();
        match dim {
            Dim::Fixed(length) => number(&mut field, 1, *length),
            Dim::Symbol(symbol) => nested(&mut field, 2, symbol.as_bytes()),
        }
        nested(&mut dims, 1, &field);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, kind);
    nested(&mut tensor, 2, &dims);
    let mut of_type = Vec::new();
    nested(&mut of_type, 1, &tensor);
    let mut info = Vec::new();
    nested(&mut info, 1, name.as_bytes());
    nested(&mut info, 2, &of_type);
    info
}

fn attribute_field(attribute: &Attribute) -> Vec<u8> {
    let mut field = Vec::new();
    match attribute {
        Attribute::Int(name, value) => {
            nested(&mut field, 1, name.as_bytes());
            number(&mut field, 3, *value);
            number(&mut field, 20, 2);
        }
        Attribute::Ints(name, values) => {
            nested(&mut field, 1, name.as_bytes());
            for value in *values {
                number(&mut field, 8, *value);
            }
            number(&mut field, 20, 7);
        }
    }
    field
}

/// A field of wire type 2: a message, a string, bytes.
fn nested(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, (field << 3) | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A field of wire type 0; negative numbers take the ten bytes that the format gives them.
fn number(out: &mut Vec<u8>, field: u64, value: i64) {
    varint(out, field << 3);
    varint(out, value as u64);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

//! JSON to write, with members in the order in which they were put in.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A JSON value to write.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the kinds of RFC 8259")]
pub enum Out {
    Null,
    Bool(bool),
    Whole(u64),
    Fraction(f64),
    Text(String),
    List(Vec<Out>),
    Object(Vec<(String, Out)>),
}

impl Out {
    /// A string.
    pub fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    /// An object.
    pub fn object<const N: usize>(members: [(&str, Out); N]) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The document with line breaks, for people.
    pub fn pretty(&self) -> String {
        // Writing values without maps of odd keys into memory cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl Serialize for Out {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Whole(n) => s.serialize_u64(*n),
            Self::Fraction(n) => s.serialize_f64(*n),
            Self::Text(t) => s.serialize_str(t),
            Self::List(items) => s.collect_seq(items),
            Self::Object(members) => {
                let mut map = s.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}

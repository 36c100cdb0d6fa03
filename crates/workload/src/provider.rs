//! Presets of servers: address, API, and how the key is sent.
//!
//! - *In*: a name.
//! - *Out*: a [`Provider`].
//! - *Never*: a key. The environment variable that holds it is named.

use wire::Dialect;

/// The API that requests are written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`.
    #[default]
    OpenAiChat,
    /// `/v1/messages`.
    Anthropic,
}

/// The header of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyHeader {
    /// `Authorization: Bearer KEY`.
    #[default]
    Bearer,
    /// `x-api-key: KEY`.
    XApiKey,
    /// `api-key: KEY`.
    ApiKey,
}

/// What requests to a server look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name.
    pub name: &'static str,
    /// Its usual address; `None`: each customer has its own.
    pub base_url: Option<&'static str>,
    /// The environment variable that usually has the key.
    pub key_env: Option<&'static str>,
    /// The API.
    pub api: Api,
    /// The header of the key.
    pub key_header: KeyHeader,
    /// The member of the body that limits the tokens of an answer.
    pub limit: &'static str,
}

const fn engine(name: &'static str, base_url: &'static str) -> Provider {
    Provider {
        name,
        base_url: Some(base_url),
        key_env: None,
        api: Api::OpenAiChat,
        key_header: KeyHeader::Bearer,
        limit: "max_tokens",
    }
}

/// All presets. Engines have the port of their documentation.
pub const PROVIDERS: [Provider; 8] = [
    Provider {
        key_env: Some("OPENAI_API_KEY"),
        limit: "max_completion_tokens",
        ..engine("openai", "https://api.openai.com")
    },
    Provider {
        key_env: Some("ANTHROPIC_API_KEY"),
        api: Api::Anthropic,
        key_header: KeyHeader::XApiKey,
        ..engine("anthropic", "https://api.anthropic.com")
    },
    Provider {
        base_url: None,
        key_env: Some("AZURE_OPENAI_API_KEY"),
        key_header: KeyHeader::ApiKey,
        limit: "max_completion_tokens",
        ..engine("azure", "")
    },
    engine("vllm", "http://127.0.0.1:8000"),
    engine("sglang", "http://127.0.0.1:30000"),
    engine("tgi", "http://127.0.0.1:3000"),
    engine("ollama", "http://127.0.0.1:11434"),
    engine("llamacpp", "http://127.0.0.1:8080"),
];

impl Default for Provider {
    /// Any server with the API of OpenAI.
    fn default() -> Self {
        Provider { base_url: None, ..engine("", "") }
    }
}

impl std::str::FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        PROVIDERS.into_iter().find(|provider| provider.name == name).ok_or_else(|| {
            let known = PROVIDERS.map(|provider| provider.name);
            format!("{name:?} is not a provider; {}", yaml::hint(name, &known))
        })
    }
}

impl Api {
    /// The path of requests.
    pub fn path(self) -> &'static str {
        match self {
            Api::OpenAiChat => "/v1/chat/completions",
            Api::Anthropic => "/v1/messages",
        }
    }

    /// The format of answers.
    pub fn dialect(self) -> Dialect {
        match self {
            Api::OpenAiChat => Dialect::OpenAiChat,
            Api::Anthropic => Dialect::Anthropic,
        }
    }

    /// A header that every request needs.
    pub fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Api::OpenAiChat => None,
            Api::Anthropic => Some(("anthropic-version", "2023-06-01")),
        }
    }
}

impl KeyHeader {
    /// Name and value of the header.
    pub fn header(self, key: &str) -> (&'static str, String) {
        match self {
            KeyHeader::Bearer => ("authorization", format!("Bearer {key}")),
            KeyHeader::XApiKey => ("x-api-key", key.to_owned()),
            KeyHeader::ApiKey => ("api-key", key.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_found_by_name() {
        let anthropic: Provider = "anthropic".parse().unwrap();
        assert_eq!((anthropic.api.path(), anthropic.limit), ("/v1/messages", "max_tokens"));
        assert_eq!(anthropic.key_header.header("k"), ("x-api-key", "k".to_owned()));
        assert_eq!("azure".parse::<Provider>().unwrap().base_url, None);
        let error = "vlm".parse::<Provider>().unwrap_err();
        assert_eq!(error, "\"vlm\" is not a provider; did you mean \"vllm\"?");
    }
}

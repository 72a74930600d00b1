//! Contents: the values of the ConfigMaps and Secrets that a plugin's policy names. No object of Samovar holds them.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use serde::{Deserialize, Serialize};

use crate::{KeySource, ObjectSource, SecurityPolicy};

/// The values that a policy takes from ConfigMaps and Secrets, and no others of these objects.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Contents {
    /// The values of the variables that come from a key, by the variable's name.
    pub env: BTreeMap<String, String>,
    /// The folders that come from an object, by path, and in each its files, by name.
    pub files: BTreeMap<String, Data>,
}

/// Omits the values, which no log may hold.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|(path, files)| (path, files.keys().collect::<Vec<_>>()));
        f.debug_struct("Contents")
            .field("env", &self.env.keys())
            .field("files", &files.collect::<BTreeMap<_, _>>())
            .finish()
    }
}

/// The values of a ConfigMap or a Secret, by key.
pub type Data = BTreeMap<String, ByteString>;

/// The kind of an object that holds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// A ConfigMap or a Secret that a policy names, in the plugin's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalObject {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for LocalObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// A part of the contents that is missing or invalid. It holds names and no values, since its text is shown to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The object does not exist.
    #[error("{0} does not exist: create it, or mark it `optional: true`")]
    Object(LocalObject),
    /// The object lacks the key.
    #[error("{0} has no key `{1}`: add it, or mark it `optional: true`")]
    Key(LocalObject, String),
    /// A variable's value is not text.
    #[error(
        "key `{1}` of {0} is not UTF-8 text without NUL, as the variable {2} must be: grant it as a file"
    )]
    NotText(LocalObject, String, String),
    /// The key is not a valid file name.
    #[error("key `{1}` of {0} is not a valid file name: use letters, digits, `-`, `_` and `.`")]
    NotName(LocalObject, String),
    /// The contents exceed their limit.
    #[error("the policy's ConfigMaps and Secrets hold more than {} MiB together: name fewer of them", LARGEST_CONTENTS >> 20)]
    TooLarge,
}

/// The limit on the contents of one plugin, in bytes.
pub const LARGEST_CONTENTS: usize = 4 << 20;

impl SecurityPolicy {
    /// The ConfigMaps and Secrets that the policy names, each once.
    pub fn objects(&self) -> Vec<LocalObject> {
        let keys = self.keys().map(|(_, kind, key)| (kind, &key.name));
        let folders = self.folders().map(|(_, kind, object)| (kind, &object.name));
        let mut sources: Vec<_> =
            keys.chain(folders).map(|(kind, name)| LocalObject { kind, name: name.clone() }).collect();
        sources.sort();
        sources.dedup();
        sources
    }

    /// Takes the contents from `objects`: those of the named objects that exist.
    pub fn contents(&self, objects: &BTreeMap<LocalObject, Data>) -> Result<Contents, Missing> {
        let mut contents = Contents::default();
        let mut bytes = 0;
        let mut count = |more: usize| {
            bytes += more;
            if bytes > LARGEST_CONTENTS { Err(Missing::TooLarge) } else { Ok(()) }
        };
        for (variable, kind, key) in self.keys() {
            let source = LocalObject { kind, name: key.name.clone() };
            let optional = key.optional.unwrap_or_default();
            let Some(object) = lookup(objects, &source, optional)? else { continue };
            match object.get(&key.key) {
                Some(value) => {
                    let text = text(value)
                        .ok_or_else(|| Missing::NotText(source, key.key.clone(), variable.to_owned()))?;
                    count(text.len())?;
                    contents.env.insert(variable.to_owned(), text);
                }
                None if optional => {}
                None => return Err(Missing::Key(source, key.key.clone())),
            }
        }
        for (path, kind, object) in self.folders() {
            let source = LocalObject { kind, name: object.name.clone() };
            let files = lookup(objects, &source, object.optional.unwrap_or_default())?.cloned();
            let files = files.unwrap_or_default();
            for (name, file) in &files {
                count(name.len() + file.0.len())?;
                if !is_config_map_key(name) {
                    return Err(Missing::NotName(source, name.clone()));
                }
            }
            contents.files.insert(path.to_owned(), files);
        }
        Ok(contents)
    }

    fn keys(&self) -> impl Iterator<Item = (&str, ObjectKind, &KeySource)> {
        self.env.iter().filter_map(|variable| {
            let from = variable.value_from.as_ref()?;
            let config_map = from.config_map_key_ref.as_ref().map(|key| (ObjectKind::ConfigMap, key));
            let secret = from.secret_key_ref.as_ref().map(|key| (ObjectKind::Secret, key));
            config_map.or(secret).map(|(kind, key)| (variable.name.as_str(), kind, key))
        })
    }

    fn folders(&self) -> impl Iterator<Item = (&str, ObjectKind, &ObjectSource)> {
        self.files.iter().filter_map(|file| {
            let config_map = file.config_map.as_ref().map(|object| (ObjectKind::ConfigMap, object));
            let secret = file.secret.as_ref().map(|object| (ObjectKind::Secret, object));
            config_map.or(secret).map(|(kind, object)| (file.path.as_str(), kind, object))
        })
    }
}

fn lookup<'a>(
    objects: &'a BTreeMap<LocalObject, Data>,
    source: &LocalObject,
    optional: bool,
) -> Result<Option<&'a Data>, Missing> {
    match objects.get(source) {
        None if !optional => Err(Missing::Object(source.clone())),
        object => Ok(object),
    }
}

fn text(value: &ByteString) -> Option<String> {
    String::from_utf8(value.0.clone()).ok().filter(|text| !text.contains('\0'))
}

/// Returns true if the API server accepts `name` as a key. A manifest that no API server has seen may hold any name.
fn is_config_map_key(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(is_plain) && name != "." && !name.starts_with("..")
}

/// The values of a ConfigMap.
pub fn config_map_data(object: ConfigMap) -> Data {
    let text = object.data.unwrap_or_default().into_iter();
    let text = text.map(|(key, value)| (key, ByteString(value.into_bytes())));
    object.binary_data.unwrap_or_default().into_iter().chain(text).collect()
}

/// The values of a Secret. If a key is in both, `stringData` wins, as in the API.
pub fn secret_data(object: Secret) -> Data {
    let text = object.string_data.unwrap_or_default().into_iter();
    let text = text.map(|(key, value)| (key, ByteString(value.into_bytes())));
    object.data.unwrap_or_default().into_iter().chain(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(policy: Value) -> SecurityPolicy {
        serde_json::from_value(policy).unwrap()
    }

    fn objects() -> BTreeMap<LocalObject, Data> {
        let secret: Secret =
            serde_json::from_value(json!({ "data": { "token": "aHVzaA==", "raw": "AP8=" } })).unwrap();
        let words: ConfigMap =
            serde_json::from_value(json!({ "data": { "a": "one" }, "binaryData": { "b": "AP8=" } })).unwrap();
        BTreeMap::from([
            (LocalObject { kind: ObjectKind::Secret, name: "api".into() }, secret_data(secret)),
            (LocalObject { kind: ObjectKind::ConfigMap, name: "words".into() }, config_map_data(words)),
        ])
    }

    fn secret_key(name: &str, key: &str, optional: bool) -> SecurityPolicy {
        let key = json!({ "name": name, "key": key, "optional": optional });
        policy(json!({ "env": [{ "name": "TOKEN", "valueFrom": { "secretKeyRef": key } }] }))
    }

    #[test]
    fn contents_hold_the_named_keys_and_folders_alone() {
        let both = policy(json!({
            "files": [{ "path": "/words", "configMap": { "name": "words" } }, { "path": "/tmp", "scratch": { "sizeLimit": "1Mi" } }],
            "env": [{ "name": "LOCALE", "value": "en" }, { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "api", "key": "token" } } }],
        }));
        let contents = both.contents(&objects()).unwrap();
        assert_eq!(contents.env, BTreeMap::from([("TOKEN".to_owned(), "hush".to_owned())]));
        assert_eq!(contents.files["/words"]["a"].0, b"one");
        assert_eq!(contents.files["/words"]["b"].0, [0, 255]);
        assert_eq!(contents.files.len(), 1);
        let sources: Vec<_> = both.objects().iter().map(ToString::to_string).collect();
        assert_eq!(sources, ["ConfigMap `words`", "Secret `api`"]);
    }

    #[test]
    fn errors_name_what_is_missing_and_optional_sources_are_left_out() {
        let why = |policy: SecurityPolicy| policy.contents(&objects()).unwrap_err().to_string();
        assert!(why(secret_key("gone", "token", false)).contains("Secret `gone` does not exist"));
        assert!(why(secret_key("api", "gone", false)).contains("no key `gone`"));
        assert!(why(secret_key("api", "raw", false)).contains("not UTF-8 text"));
        for absent in [secret_key("gone", "token", true), secret_key("api", "gone", true)] {
            assert_eq!(absent.contents(&objects()).unwrap(), Contents::default());
        }
    }

    #[test]
    fn unsafe_file_names_and_oversized_contents_are_refused() {
        let folder = policy(json!({ "files": [{ "path": "/words", "configMap": { "name": "words" } }] }));
        let source = LocalObject { kind: ObjectKind::ConfigMap, name: "words".into() };
        let with = |name: &str, bytes: usize| {
            let data = Data::from([(name.to_owned(), ByteString(vec![0; bytes]))]);
            folder.contents(&BTreeMap::from([(source.clone(), data)]))
        };
        for name in ["../passwd", "a/b", "..", "", "."] {
            assert!(matches!(with(name, 1), Err(Missing::NotName(..))), "{name}");
        }
        assert!(with("a", LARGEST_CONTENTS - 1).is_ok());
        assert_eq!(with("a", LARGEST_CONTENTS), Err(Missing::TooLarge));
    }

    #[test]
    fn debug_output_omits_values() {
        let contents = secret_key("api", "token", false).contents(&objects()).unwrap();
        let shown = format!("{contents:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }
}

//! `config.json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::model::{Architecture, Backbone, ModelConfig, Own};
use super::version::{check_version, format_version};
use crate::{Error, Result};

/// How a body of one's own stands in a `config.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnJson {
    name: String,
    #[serde(default)]
    parameters: Value,
}

impl Serialize for Backbone {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let architecture = self.architecture();
        match self {
            Self::Own(_) => OwnJson { name: architecture.name().into(), parameters: architecture.parameters() }
                .serialize(serializer),
            _ => architecture.name().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Backbone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected the name of a backbone")]
        enum Either {
            BuiltIn(String),
            Own(OwnJson),
        }
        match Either::deserialize(deserializer)? {
            Either::BuiltIn(name) => Self::named(&name).ok_or_else(|| {
                let names: Vec<String> =
                    Self::BUILT_IN.iter().map(|backbone| format!("`{}`", backbone.architecture().name())).collect();
                let near = Self::BUILT_IN
                    .iter()
                    .map(|backbone| backbone.architecture().name())
                    .map(|known| (strsim::levenshtein(known, &name), known))
                    .min()
                    .filter(|(distance, _)| 2 * distance < name.len())
                    .map_or(String::new(), |(_, known)| format!(" (did you mean `{known}`?)"));
                D::Error::custom(format!("unknown variant `{name}`{near}, expected one of {}", names.join(", ")))
            }),
            Either::Own(own) => Err(D::Error::custom(format!(
                "backbone {} is a network that a program of its own defines; load it there with from_pretrained_as or \
                 ModelConfig::from_json_as",
                own.name
            ))),
        }
    }
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names the unknown key or wrong value and the line, or says that a newer program wrote this.
    pub fn from_json(json: &str) -> Result<Self> {
        check_version_of(json)?;
        let config: Self = serde_json::from_str(json).map_err(wrong)?;
        config.check()?;
        Ok(config)
    }

    /// Reads the `config.json` of a network whose body is an `A`, or a built-in one.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`], and if the body has another name than `A`.
    ///
    /// ```
    /// use lmht_nn::ModelConfig;
    /// # use candle_nn::VarBuilder;
    /// # use lmht_nn::{Architecture, Body, InputShape, Result};
    ///
    /// #[derive(Debug, serde::Deserialize)]
    /// struct Mine {
    ///     hidden: usize,
    /// }
    /// # impl Architecture for Mine {
    /// #     fn name(&self) -> &str { "mine" }
    /// #     fn parameters(&self) -> serde_json::Value { serde_json::json!({ "hidden": self.hidden }) }
    /// #     fn input(&self) -> InputShape { InputShape::Features }
    /// #     fn build(&self, _: &ModelConfig, _: &VarBuilder<'_>) -> Result<Box<dyn Body>> { unimplemented!() }
    /// # }
    /// # fn main() -> Result<()> {
    /// let config = ModelConfig::own(Mine { hidden: 16 }, 10);
    /// assert_eq!(ModelConfig::from_json_as::<Mine>(&config.to_json())?, config);
    /// assert!(ModelConfig::from_json(&config.to_json()).is_err()); // who but this program knows what a "mine" is?
    /// # Ok(()) }
    /// ```
    pub fn from_json_as<A: Architecture + DeserializeOwned>(json: &str) -> Result<Self> {
        check_version_of(json)?;
        let mut fields: BTreeMap<String, Value> = serde_json::from_str(json).map_err(wrong)?;
        let own: Option<OwnJson> = match fields.get("backbone") {
            Some(backbone @ Value::Object(_)) => Some(serde_json::from_value(backbone.clone()).map_err(wrong)?),
            _ => None,
        };
        let Some(own) = own else { return Self::from_json(json) };
        // Any built-in body stands in while the other fields are read.
        fields.insert("backbone".into(), Backbone::Resnet18.architecture().name().into());
        fields.entry("width".into()).or_insert_with(|| 1.into());
        let mut config: Self = serde_json::from_value(Value::Object(fields.into_iter().collect())).map_err(wrong)?;
        let architecture: A = serde_json::from_value(own.parameters)
            .map_err(|error| Error::Config(format!("backbone {}: {error}", own.name)))?;
        if architecture.name() != own.name {
            return Err(Error::Config(format!(
                "backbone is {}, expected {}; load it with the type that defines it",
                own.name,
                architecture.name()
            )));
        }
        config.backbone = Backbone::Own(Own(Arc::new(architecture)));
        config.check()?;
        Ok(config)
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        // Serializing a struct of numbers and enums to a string cannot fail.
        serde_json::to_string_pretty(self).expect("a configuration serializes") + "\n"
    }
}

fn wrong(error: serde_json::Error) -> Error {
    Error::Config(error.to_string())
}

/// The version first and alone: a newer description may have fields that would only be called unknown here.
fn check_version_of(json: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(default = "format_version")]
        format_version: u32,
    }
    let Version { format_version } = serde_json::from_str(json).map_err(wrong)?;
    check_version(format_version)
}

//! The head of a model card: what the Hub reads of a `README.md`, checked against its rules before it is written
//! (hub-docs, `modelcard.md` and `model-cards.md`).

use crate::error::{Error, Result};
use crate::name::{Repo, RepoKind};

/// What the Hub calls licences.
const LICENSES: &str = "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 \
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 \
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 \
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 \
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl \
    gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa \
    unlicense zlib pddl lgpl-lr unknown";

/// The head of a model card. The Hub shows [`Evaluation`]s as results (`model-index`).
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCardHead {
    /// One of the Hub's identifiers, such as `mit`.
    pub license: String,
    /// The library that loads the model.
    pub library_name: String,
    /// What the model does, such as `image-classification`.
    pub pipeline_tag: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The data sets that it learned from, by their names on the Hub; none if they are not there.
    pub datasets: Vec<String>,
    /// The metrics that are given, such as `accuracy`.
    pub metrics: Vec<String>,
    /// What it is called in `model-index`.
    pub model_name: String,
    /// What was measured; at least one.
    pub evaluations: Vec<Evaluation>,
}

/// A figure and what it was measured on.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// A name on the Hub, `owner/name`; or one without an owner, of a data set that is not there.
    pub dataset: String,
    /// For people.
    pub dataset_name: String,
    /// The split.
    pub split: String,
    /// An identifier, such as `accuracy`.
    pub metric: String,
    /// For people: what it is, and if it is an estimate.
    pub metric_name: String,
    /// The figure.
    pub value: f64,
    /// Whose figure it is: a name and an address.
    pub source: (String, String),
}

impl ModelCardHead {
    /// The YAML between the lines of `---`, those included.
    ///
    /// # Errors
    /// [`Error::Name`] for what the Hub would not take.
    pub fn to_yaml(&self) -> Result<String> {
        self.check()?;
        let mut yaml = format!(
            "---\nlicense: {}\nlibrary_name: {}\npipeline_tag: {}\n",
            text(&self.license),
            text(&self.library_name),
            text(&self.pipeline_tag)
        );
        for (key, values) in [("tags", &self.tags), ("datasets", &self.datasets), ("metrics", &self.metrics)] {
            if values.is_empty() {
                continue;
            }
            yaml += &format!("{key}:\n");
            values.iter().for_each(|value| yaml += &format!("- {}\n", text(value)));
        }
        yaml += &format!("model-index:\n- name: {}\n  results:\n", text(&self.model_name));
        for it in &self.evaluations {
            yaml += &format!(
                "  - task:\n      type: {}\n    dataset:\n      type: {}\n      name: {}\n      split: {}\n    metrics:\n    \
                 - type: {}\n      name: {}\n      value: {}\n    source:\n      name: {}\n      url: {}\n",
                text(&self.pipeline_tag),
                text(&it.dataset),
                text(&it.dataset_name),
                text(&it.split),
                text(&it.metric),
                text(&it.metric_name),
                it.value,
                text(&it.source.0),
                text(&it.source.1)
            );
        }
        Ok(yaml + "---\n")
    }

    fn check(&self) -> Result<()> {
        let wrong = |given: &str, expected: &str| Err(Error::Name { given: given.into(), expected: expected.into() });
        if !LICENSES.split_whitespace().any(|known| known == self.license) {
            return wrong(&self.license, "a licence by the Hub's identifier, such as mit, apache-2.0 or cc-by-4.0");
        }
        let measured = self.evaluations.iter().map(|it| &it.dataset).filter(|name| !Repo::is_part(name));
        for name in self.datasets.iter().chain(measured) {
            Repo::parse(RepoKind::Dataset, name)?;
        }
        let texts = [&self.library_name, &self.pipeline_tag, &self.model_name];
        let of_evaluations =
            self.evaluations.iter().flat_map(|it| [&it.dataset_name, &it.split, &it.metric, &it.metric_name]);
        if texts.into_iter().chain(of_evaluations).any(|text| text.trim().is_empty()) {
            return wrong("", "a name of library, task, model, data set, split and metric, as model-index needs them");
        }
        if self.metrics.is_empty() || self.evaluations.is_empty() {
            return wrong("", "a metric and a result, as model-index needs them");
        }
        for it in &self.evaluations {
            if !it.value.is_finite() {
                return wrong(&it.value.to_string(), "a figure that is a number");
            }
            if !it.source.1.starts_with("https://") {
                return wrong(&it.source.1, "the https address of who measured it");
            }
        }
        Ok(())
    }
}

/// A text of JSON is one of YAML.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> ModelCardHead {
        let evaluation = Evaluation {
            dataset: "uoft-cs/cifar10".into(),
            dataset_name: "CIFAR-10".into(),
            split: "test".into(),
            metric: "accuracy".into(),
            metric_name: "top-1: \"last\" epoch".into(),
            value: 0.9375,
            source: ("run".into(), "https://example.org".into()),
        };
        ModelCardHead {
            license: "mit".into(),
            library_name: "lmht".into(),
            pipeline_tag: "image-classification".into(),
            tags: vec!["spiking-neural-network".into()],
            datasets: vec!["uoft-cs/cifar10".into()],
            metrics: vec!["accuracy".into()],
            model_name: "ResNet-18".into(),
            evaluations: vec![evaluation],
        }
    }

    #[test]
    fn what_the_hub_would_not_take_is_refused() {
        assert!(head().to_yaml().unwrap().contains("      name: \"top-1: \\\"last\\\" epoch\"\n      value: 0.9375\n"));
        let harms: [fn(&mut ModelCardHead); 7] = [
            |it| it.license = "MIT License".into(),
            |it| it.datasets = vec!["CIFAR 10".into()],
            |it| it.evaluations[0].dataset = "CIFAR 10".into(),
            |it| it.evaluations.clear(),
            |it| it.evaluations[0].value = f64::NAN,
            |it| it.evaluations[0].dataset_name = " ".into(),
            |it| it.evaluations[0].source.1 = "run 7".into(),
        ];
        for harm in harms {
            let mut it = head();
            harm(&mut it);
            assert!(it.to_yaml().is_err(), "{it:?}");
        }
    }

    #[test]
    fn a_data_set_that_is_not_on_the_hub_has_a_name_in_the_results_alone() {
        let mut it = head();
        it.datasets.clear();
        it.evaluations[0].dataset = "n-mnist".into();
        let yaml = it.to_yaml().unwrap();
        assert!(yaml.contains("    dataset:\n      type: \"n-mnist\"\n") && !yaml.contains("datasets:"), "{yaml}");
    }
}

//! The networks of the paper: bodies whose neuron is a value of the configuration, a family a file.
//!
//! Parameter names are those of the published networks, so that a checkpoint of either loads in the other. Each is an
//! [`Architecture`] as a program's own networks are; a new one is its file, its variant of [`Backbone`] and its lines here.

mod cifarnet;
mod classifier;
mod resnet;
mod spikformer;
mod vgg;

use crate::{Architecture, Backbone};
use cifarnet::Cifarnet;
use resnet::Resnet;
use spikformer::Spikformer;
use vgg::Vgg;

impl Backbone {
    /// All but those that programs define.
    pub const BUILT_IN: [Self; 13] = [
        Self::Resnet18,
        Self::Resnet19,
        Self::Resnet20,
        Self::Resnet34,
        Self::MsResnet18,
        Self::MsResnet34,
        Self::Vgg11,
        Self::Vgg13,
        Self::Vgg13Standard,
        Self::Vgg16,
        Self::Vgg19,
        Self::Cifarnet,
        Self::Spikformer,
    ];

    /// The built-in one that a `config.json` calls so.
    ///
    /// ```
    /// use lmht_nn::Backbone;
    /// assert_eq!(Backbone::named("ms_resnet18"), Some(Backbone::MsResnet18));
    /// assert_eq!(Backbone::named("resnet-18"), None);
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        Self::BUILT_IN.into_iter().find(|backbone| backbone.architecture().name() == name)
    }

    /// What knows its layers.
    pub fn architecture(&self) -> &dyn Architecture {
        match self {
            Self::Resnet18 => &Resnet::R18,
            Self::Resnet19 => &Resnet::R19,
            Self::Resnet20 => &Resnet::R20,
            Self::Resnet34 => &Resnet::R34,
            Self::MsResnet18 => &Resnet::Ms18,
            Self::MsResnet34 => &Resnet::Ms34,
            Self::Vgg11 => &Vgg::V11,
            Self::Vgg13 => &Vgg::V13,
            Self::Vgg13Standard => &Vgg::V13Standard,
            Self::Vgg16 => &Vgg::V16,
            Self::Vgg19 => &Vgg::V19,
            Self::Cifarnet => &Cifarnet,
            Self::Spikformer => &Spikformer,
            Self::Own(own) => own.architecture(),
        }
    }
}

//! What a configuration may hold.

use candle_core::bail;

use super::model::{Backbone, InputShape, ModelConfig};
use super::version::check_version;
use crate::{Error, Result};

/// The largest width and numbers of channels and classes: beyond any use, and a product of two of them cannot overflow.
const MAX_SIZE: usize = 1 << 16;

impl ModelConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] names the first field that cannot be, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        check_version(self.format_version)?;
        for (name, value, max) in [
            ("width", self.width, MAX_SIZE),
            ("in_channels", self.in_channels, MAX_SIZE),
            ("n_classes", self.n_classes, MAX_SIZE),
            ("timesteps", self.timesteps, lmht_core::MAX_TIMESTEPS),
        ] {
            if value == 0 || value > max {
                return Err(Error::Config(format!("{name} is {value}; expected a whole number in 1..={max}")));
            }
        }
        self.backbone.architecture().check(self)?;
        if !(self.input_scale.is_finite() && self.input_scale > 0.) {
            return Err(Error::Config(format!("input_scale is {}; expected a number above 0", self.input_scale)));
        }
        self.neuron.check(self.timesteps)?;
        if self.unit_spikes && self.neuron.traits().equation != crate::neurons::Equation::MultiThreshold {
            let title = self.neuron.traits().title;
            return Err(Error::Config(format!(
                "unit_spikes is true, which {title} neurons do not have (s·θ over θ must be a count); leave it out"
            )));
        }
        Ok(())
    }

    /// Refuses the fields that only some bodies have.
    pub(crate) fn refuse_stem_and_depth(&self, has_stems: bool) -> Result<()> {
        let title = self.backbone.title();
        if self.stem != super::model::Stem::Cifar && !has_stems {
            return Err(Error::Config(format!(
                "stem is {}, which {title} does not have; expected cifar (the others are for ResNet-18, -19, -34, \
                 MS-ResNet-18, -34 and the standard VGG-11, -13, -16, -19)",
                if self.stem == super::model::Stem::Imagenet { "imagenet" } else { "imagenet_pool_first" }
            )));
        }
        for (name, value) in [("depth", self.depth), ("heads", self.heads)] {
            if let Some(value) = value {
                return Err(Error::Config(format!(
                    "{name} is {value}, which {title} does not have; leave it out (it is for Spikformer)"
                )));
            }
        }
        Ok(())
    }

    /// The shape of one input, without batch and time: `[C, H, W]` of the smallest image of at most 32x32 that every layer
    /// takes, or `[F]`.
    pub fn example_input(&self) -> Vec<usize> {
        match self.backbone.architecture().input_of(self) {
            InputShape::Images { sides } => {
                let side = 32.clamp(*sides.start(), *sides.end());
                vec![self.in_channels, side, side]
            }
            InputShape::Features => vec![self.in_channels],
        }
    }

    /// Checks the shape of what a network is shown: images or features `[B, ...]`, or frames `[T, B, ...]`, nothing empty,
    /// sides that survive the strides.
    ///
    /// # Errors
    /// What was expected, and `dims`.
    ///
    /// ```
    /// let config = lmht_nn::ModelConfig::vgg16(10);
    /// assert!(config.check_input(&[1, 3, 32, 32]).is_ok());
    /// assert!(config.check_input(&[1, 3, 28, 28]).is_err()); // five poolings leave nothing of it
    /// ```
    pub fn check_input(&self, dims: &[usize]) -> candle_core::Result<()> {
        let (t, c) = (self.n_frames(), self.in_channels);
        let input = self.backbone.architecture().input_of(self);
        let (axes, what) = match &input {
            InputShape::Images { .. } => (3, format!("images [B, {c}, H, W] or frames [{t}, B, {c}, H, W]")),
            InputShape::Features => (1, format!("features [B, {c}] or [{t}, B, {c}]")),
        };
        let fits = match dims.len().checked_sub(axes) {
            Some(1) => dims[1] == c,
            Some(2) => dims[0] == t && dims[2] == c,
            _ => false,
        };
        if !fits || dims.contains(&0) {
            bail!(
                "expected {what} (in_channels = {c} and timesteps = {} in the config{}), got an input of shape {dims:?}",
                self.timesteps,
                match self.neuron.window() {
                    1 => String::new(),
                    window => format!(", {window} for each frame"),
                }
            )
        }
        let InputShape::Images { sides } = input else { return Ok(()) };
        let (h, w) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        if [h, w].iter().any(|side| !sides.contains(side)) {
            let (title, smallest, largest) = (self.backbone.title(), sides.start(), sides.end());
            if *largest == usize::MAX {
                bail!("the images are {h}x{w}; {title} needs sides of at least {smallest}: use larger images")
            }
            bail!("the images are {h}x{w}; {title} needs sides of {smallest} to {largest}: resize the images")
        }
        Ok(())
    }
}

impl Backbone {
    /// The name that the paper uses; what the paper has no name for is called as in the literature.
    pub fn title(&self) -> &str {
        self.architecture().title()
    }
}

//! Both counters in one pass.

use lmht_nn::{NeuronEvent, Observer, PassEvent, ProductEvent, Result, SynapseEvent};

use crate::{ActivityCounter, CostCounter};

/// A [`CostCounter`] and an [`ActivityCounter`] that watch the same passes.
#[derive(Debug, Default, Clone)]
pub struct Profiler {
    /// Operations.
    pub cost: CostCounter,
    /// How neurons fire.
    pub activity: ActivityCounter,
}

impl Profiler {
    /// Two counters that have seen nothing.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Observer for Profiler {
    fn begin(&mut self, event: &PassEvent) -> Result<()> {
        self.cost.begin(event)?;
        self.activity.begin(event)
    }

    fn takes_parts(&self) -> bool {
        self.cost.takes_parts() && self.activity.takes_parts()
    }

    fn synapse(&mut self, event: &SynapseEvent<'_>) -> Result<()> {
        self.cost.synapse(event)
    }

    fn neuron(&mut self, event: &NeuronEvent<'_>) -> Result<()> {
        self.cost.neuron(event)?;
        self.activity.neuron(event)
    }

    fn product(&mut self, event: &ProductEvent<'_>) -> Result<()> {
        self.cost.product(event)
    }
}

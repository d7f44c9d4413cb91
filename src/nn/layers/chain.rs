//! Layers made of layers: one after the other, side by side, with a way around.

use netloom_ir::builder::Val;

use super::Layer;
use crate::nn::scope::Scope;

/// A layer within another, and the part of the scope that is its own; `None` if it asks for parameters where the other stands.
struct Part {
    name: Option<String>,
    layer: Box<dyn Layer>,
}

impl Part {
    fn new(name: Option<String>, layer: impl Layer + 'static) -> Part {
        Part {
            name,
            layer: Box::new(layer),
        }
    }

    fn scope<'g>(&self, outer: &Scope<'g>) -> Scope<'g> {
        self.name
            .as_ref()
            .map_or_else(|| outer.clone(), |name| outer.enter(name))
    }

    fn build<'g>(&self, outer: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        self.layer.build(&self.scope(outer), x)
    }
}

/// Layers one after the other. Layer `k` asks for its parameters at the scope `k`, unless it was given a name. Without layers it is
/// the identity.
#[derive(Default)]
pub struct Sequential {
    parts: Vec<Part>,
}

impl Sequential {
    /// No layer yet: the network that returns its input.
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Appends a layer.
    #[must_use]
    pub fn then(self, layer: impl Layer + 'static) -> Sequential {
        let number = self.parts.len().to_string();
        self.named(number, layer)
    }

    /// Appends a layer whose scope has a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>, layer: impl Layer + 'static) -> Sequential {
        self.parts.push(Part::new(Some(name.into()), layer));
        self
    }

    /// Appends a layer that asks for its parameters at the scope of the whole.
    #[must_use]
    pub fn here(mut self, layer: impl Layer + 'static) -> Sequential {
        self.parts.push(Part::new(None, layer));
        self
    }

    /// The same chain with a layer before its last one, which asks for its parameters at the scope of the whole: the others keep their names.
    #[must_use]
    pub fn before_last(mut self, layer: impl Layer + 'static) -> Sequential {
        let place = self.parts.len().saturating_sub(1);
        self.parts.insert(place, Part::new(None, layer));
        self
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Each layer with its scope, in order.
    pub fn layers<'a, 'g: 'a>(&'a self, scope: &'a Scope<'g>) -> impl Iterator<Item = (Scope<'g>, &'a dyn Layer)> {
        self.parts.iter().map(|part| (part.scope(scope), &*part.layer))
    }
}

impl Layer for Sequential {
    fn describe(&self) -> String {
        format!("Sequential({})", self.parts.len())
    }

    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        self.parts.iter().fold(x, |x, part| part.build(scope, x))
    }

    fn chain(&self) -> Option<&Sequential> {
        Some(self)
    }
}

/// Layers under a name that `summary` shows as one line: `Fire(16, 64)`.
pub struct Block {
    name: String,
    inner: Box<dyn Layer>,
}

impl Block {
    /// A layer under another name.
    pub fn new(name: impl Into<String>, inner: impl Layer + 'static) -> Block {
        Block {
            name: name.into(),
            inner: Box::new(inner),
        }
    }
}

impl Layer for Block {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        self.inner.build(scope, x)
    }
}

/// A layer with a way around it: `layer(x) + x`, or with a shortcut `layer(x) + shortcut(x)`. The layer asks for its parameters where
/// the whole stands.
pub struct Residual {
    layer: Part,
    shortcut: Part,
}

impl Residual {
    /// `layer(x) + x`.
    pub fn around(layer: impl Layer + 'static) -> Residual {
        Residual {
            layer: Part::new(None, layer),
            shortcut: Part::new(None, Sequential::new()),
        }
    }

    /// The same with a layer on the way around, whose scope has this name.
    #[must_use]
    pub fn shortcut(self, name: &str, layer: impl Layer + 'static) -> Residual {
        Residual {
            shortcut: Part::new(Some(name.to_owned()), layer),
            ..self
        }
    }
}

impl Layer for Residual {
    fn describe(&self) -> String {
        format!("Residual({})", self.layer.layer.describe())
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let (inner, around) = (self.layer.build(scope, x), self.shortcut.build(scope, x));
        if inner.is_poison() || around.is_poison() {
            return if inner.is_poison() { inner } else { around };
        }
        // Broadcasting would hide that a projection is missing.
        if inner.shape() != around.shape() {
            let message = format!("residual: the layer gives {inner}, the way around it {around}");
            return scope.builder().problem(message);
        }
        inner + around
    }
}

/// Layers side by side on one input, their results joined along the channels (axis 1).
#[derive(Default)]
pub struct Branches {
    parts: Vec<Part>,
}

impl Branches {
    /// No branch yet.
    pub fn new() -> Branches {
        Branches::default()
    }

    /// Adds a branch whose scope has a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>, layer: impl Layer + 'static) -> Branches {
        self.parts.push(Part::new(Some(name.into()), layer));
        self
    }

    /// Adds a branch that asks for its parameters at the scope of the whole.
    #[must_use]
    pub fn here(mut self, layer: impl Layer + 'static) -> Branches {
        self.parts.push(Part::new(None, layer));
        self
    }
}

impl Layer for Branches {
    fn describe(&self) -> String {
        format!("Branches({})", self.parts.len())
    }

    #[track_caller]
    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        let results: Vec<Val<'g>> = self.parts.iter().map(|part| part.build(scope, x)).collect();
        match results.as_slice() {
            [] => scope.builder().problem("branches: there is no branch"),
            [only] => *only,
            _ => match results.iter().find(|result| result.is_poison()) {
                Some(poison) => *poison,
                None => Val::concat(&results, 1),
            },
        }
    }
}

/// In training, a further classifier on what passes through: its loss is added to the objective with this weight. Elsewhere the head
/// does nothing. Either way the value goes on as it is.
///
/// C. Szegedy et al., "Going deeper with convolutions", CVPR 2015.
pub struct Auxiliary {
    weight: f64,
    head: Box<dyn Layer>,
}

impl Auxiliary {
    /// A head that gives scores like the network's.
    pub fn new(weight: f64, head: impl Layer + 'static) -> Auxiliary {
        Auxiliary {
            weight,
            head: Box::new(head),
        }
    }
}

impl Layer for Auxiliary {
    fn describe(&self) -> String {
        format!("Auxiliary({})", self.weight)
    }

    fn build<'g>(&self, scope: &Scope<'g>, x: Val<'g>) -> Val<'g> {
        if scope.is_training() {
            scope.score_also(self.head.build(scope, x), self.weight);
        }
        x
    }
}

//! The tables of orders: which id gets which answer. Used by the sandbox's vendors only; each has a
//! [`Stage`] of its own.

use axum::http::StatusCode;
use serde_json::Value;

use super::Reply;
use super::faults::Fault;

/// The orders of a vendor.
pub(super) struct Stage {
    /// The answer that all others are made from.
    pub(super) ordinary: &'static str,
    /// The place of the order's id in it, as a JSON pointer.
    pub(super) id_at: &'static str,
    /// The orders that differ from it.
    pub(super) scenes: &'static [Scene],
}

/// An order in a vendor's table.
pub(super) struct Scene {
    /// The ids of the order.
    ids: &'static [&'static str],
    /// A short description of the answer.
    answers: &'static str,
    play: Play,
}

/// How a [`Scene`] is made.
enum Play {
    /// Exactly this body.
    Letter(&'static str),
    /// The vendor's ordinary answer, patched with this JSON (see [`put_over`]).
    Over(&'static str),
}

/// A scene whose answer is exactly `body`.
pub(super) const fn letter(
    ids: &'static [&'static str],
    answers: &'static str,
    body: &'static str,
) -> Scene {
    let play = Play::Letter(body);
    Scene { ids, answers, play }
}

/// A scene whose answer is the ordinary one, patched with `patch`.
pub(super) const fn over(
    ids: &'static [&'static str],
    answers: &'static str,
    patch: &'static str,
) -> Scene {
    let play = Play::Over(patch);
    Scene { ids, answers, play }
}

impl Stage {
    /// The answer for `id`, if it has a scene; `written` is the id as it appears in the vendor's JSON.
    pub(super) fn scene(&self, id: &str, written: impl Into<Value>) -> Option<Reply> {
        let scene = self.scenes.iter().find(|scene| scene.ids.contains(&id))?;
        Some(match scene.play {
            Play::Letter(body) => Reply::Json(StatusCode::OK, body.to_owned()),
            Play::Over(patch) => self.over(written.into(), patch),
        })
    }

    /// The ordinary answer.
    pub(super) fn ordinary(&self, written: impl Into<Value>) -> Reply {
        self.over(written.into(), "{}")
    }

    /// A fault, applied to the ordinary answer.
    pub(super) fn fault(&self, fault: &'static Fault, written: impl Into<Value>) -> Reply {
        match self.ordinary(written) {
            Reply::Json(_, text) => Reply::Fault(fault, text),
            other => other,
        }
    }

    /// The ids of the scenes, each with a short description of its answer.
    pub(super) fn ids(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.scenes.iter().flat_map(|scene| scene.ids.iter().map(|id| (*id, scene.answers)))
    }

    fn over(&self, written: Value, patch: &str) -> Reply {
        let parsed = serde_json::from_str::<Value>(self.ordinary)
            .and_then(|base| serde_json::from_str(patch).map(|patch| (base, patch)));
        let Ok((mut base, patch)) = parsed else {
            // A test plays every scene, so this is never sent.
            let text = "the sandbox's table is not JSON";
            return Reply::Text(StatusCode::NOT_IMPLEMENTED, text);
        };
        if let Some(place) = base.pointer_mut(self.id_at) {
            *place = written;
        }
        put_over(&mut base, patch);
        Reply::Json(StatusCode::OK, base.to_string())
    }
}

/// Patches `base`: objects are merged, the text `<absent>` removes a member, and any other value,
/// including null, replaces the old one.
fn put_over(base: &mut Value, patch: Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (name, patch) in patch {
                if patch == "<absent>" {
                    base.remove(&name);
                } else {
                    put_over(base.entry(name).or_insert(Value::Null), patch);
                }
            }
        }
        (base, patch) => *base = patch,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn put_over_merges_replaces_and_removes() {
        let mut base = json!({"a": {"b": 1, "c": 2, "d": 3}, "e": [1]});
        put_over(&mut base, json!({"a": {"b": null, "c": "<absent>"}, "e": {"f": 4}}));
        assert_eq!(base, json!({"a": {"b": null, "d": 3}, "e": {"f": 4}}));
    }

    #[test]
    fn every_scene_is_json_and_ids_are_unique() {
        for vendor in super::super::vendors() {
            let stage = vendor.stage();
            let mut seen = std::collections::HashSet::new();
            let ordinary = serde_json::from_str::<Value>(stage.ordinary).ok();
            assert!(ordinary.is_some_and(|json| json.pointer(stage.id_at).is_some()));
            for scene in stage.scenes {
                let Some(Reply::Json(_, body)) = stage.scene(scene.ids[0], "ID") else {
                    panic!("{:?} is no JSON", scene.ids);
                };
                assert!(!body.contains("<absent>"), "{body}");
                assert!(serde_json::from_str::<Value>(&body).is_ok(), "{body}");
                assert!(scene.ids.iter().all(|id| seen.insert(id)), "{:?}", scene.ids);
            }
        }
    }
}

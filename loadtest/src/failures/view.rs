//! Whom a subscriber takes for members of a channel: the page that it got when it joined, and every notice since.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

/// A member, in a page or a notice.
#[derive(Debug, Deserialize)]
pub(super) struct Member {
    pub(super) id: String,
    #[serde(default)]
    data: Option<Value>,
}

/// What a notice says of one member.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) kind: String,
    pub(super) member: Member,
    /// The connection that this one takes over from.
    pub(super) previous: Option<String>,
}

/// What is to be done after a message about members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// The list is to be asked for.
    Ask,
}

/// Whom one subscriber takes for members of one channel.
#[derive(Debug, Default)]
pub(super) struct View {
    members: BTreeSet<String>,
    /// A page was asked for and has not come.
    is_asked: bool,
    /// Notices may have been missed since the last page.
    is_stale: bool,
    /// Members that took over from another connection and did not have its profile.
    pub(super) without_profile: usize,
}

impl View {
    /// Nothing is known: the subscriber is not a member.
    pub(super) fn forget(&mut self) {
        let without_profile = self.without_profile;
        *self = Self {
            without_profile,
            ..Self::default()
        };
    }

    /// Takes a page in. Each change that was made while it was assembled is told after it.
    pub(super) fn take_page(&mut self, members: Vec<Member>, is_whole: bool) -> Next {
        self.is_asked = false;
        self.members = members.into_iter().map(|member| member.id).collect();
        if is_whole {
            self.is_stale = false;
            return Next::Nothing;
        }
        self.must_ask()
    }

    /// Takes in what is told of one member.
    pub(super) fn take(&mut self, notice: Notice) {
        let Notice {
            kind,
            member,
            previous,
        } = notice;
        match kind.as_str() {
            "joined" => drop(self.members.insert(member.id)),
            "left" => drop(self.members.remove(&member.id)),
            "updated" => {
                let Some(previous) = previous else { return };
                self.members.remove(&previous);
                self.members.insert(member.id);
                self.without_profile += usize::from(member.data.is_none_or(|data| data.is_null()));
            }
            _ => {}
        }
    }

    /// The list is to be asked for again.
    pub(super) fn must_ask(&mut self) -> Next {
        self.is_stale = true;
        self.ask_again()
    }

    /// Whether a page is due that was not asked for.
    pub(super) fn ask_again(&mut self) -> Next {
        if self.is_stale && !std::mem::replace(&mut self.is_asked, true) {
            return Next::Ask;
        }
        Next::Nothing
    }

    /// The page was refused.
    pub(super) fn was_refused(&mut self) {
        self.is_asked = false;
    }

    /// The members that it knows, with the subscriber itself, of whom nobody tells it.
    pub(super) fn with(&self, own: &str) -> BTreeSet<String> {
        let mut members = self.members.clone();
        members.insert(own.to_owned());
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, data: Option<Value>) -> Member {
        Member {
            id: id.to_owned(),
            data,
        }
    }

    fn notice(kind: &str, id: &str, previous: Option<&str>) -> Notice {
        Notice {
            kind: kind.to_owned(),
            member: member(id, None),
            previous: previous.map(str::to_owned),
        }
    }

    #[test]
    fn notices_change_what_a_page_has_said() {
        let mut view = View::default();
        assert_eq!(
            view.take_page(vec![member("a", None), member("b", None)], true),
            Next::Nothing
        );
        view.take(notice("joined", "c", None));
        view.take(notice("left", "a", None));
        view.take(notice("updated", "d", Some("b")));
        view.take(notice("updated", "c", None));
        let expected = ["c", "d", "me"].map(str::to_owned);
        assert_eq!(view.with("me"), BTreeSet::from(expected));
        assert_eq!(view.without_profile, 1);
    }

    #[test]
    fn a_page_is_asked_for_once_until_it_comes_or_is_refused() {
        let mut view = View::default();
        assert_eq!(view.must_ask(), Next::Ask);
        assert_eq!(view.must_ask(), Next::Nothing);
        view.was_refused();
        assert_eq!(view.ask_again(), Next::Ask);
        assert_eq!(view.take_page(Vec::new(), true), Next::Nothing);
        assert_eq!(view.ask_again(), Next::Nothing);
        assert_eq!(view.take_page(Vec::new(), false), Next::Ask);
    }
}

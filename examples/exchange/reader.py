"""The system that listens to five others. It imports nothing of them: its classes have the names that they publish.

What comes from five systems comes in no order: a vote may be here before the post that it is about, or for a post that is never heard of. Nothing waits for
it. A post is folded from whatever is known of it, in any order, and what has come before the post itself is counted as *parked*, for all to see.

So each field is folded in a way that doesn't depend on the order: sums, and for what holds the last one the producer's own number. The one thing that
takes two systems to know is which answer a question has accepted: a vote says that an answer was accepted, and only the post says to which question.
Whichever comes last, the reaction `accept` finds both.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import happened as h

PostNo = Annotated[int, h.Tag("post")]
UserNo = Annotated[int, h.Tag("user")]

QUESTION, WIKI = "QuestionAsked", "WikiPostCreated"

SCORES = {"UpVoted": 1, "DownVoted": -1}
"""What a vote counts. Other votes ask for something: to accept, to delete, to look at a post."""

TITLES = ("TitleSet", "TitleEdited", "TitleRolledBack")
TAGS = ("TagsSet", "TagsEdited", "TagsRolledBack")

FEATURED = "<featured>"

FEATURED_FOR_MAX = timedelta(days=60)
"""The site itself takes down the tag that features a question, after 30 to 38 days as a rule; in its first year it made no revision of that."""

EARLY = datetime(1970, 1, 1, tzinfo=UTC)


class Posted(h.Event):
    """From `posts`: there is such a post."""

    post: PostNo
    kind: str
    question: PostNo | None


class Voted(h.Event):
    """From `votes`: a vote counts."""

    vote: int
    post: PostNo
    kind: str


class Commented(h.Event):
    """From `comments`: a post has one comment more."""

    comment: int
    post: PostNo


class Revised(h.Event):
    """From `revisions`: a post is another than before."""

    revision: int
    post: PostNo
    kind: str
    text: str | None


class UserRegistered(h.Event):
    """From `badges`: there is one user more."""

    user: UserNo


class BadgeAwarded(h.Event):
    """From `badges`: a badge was earned."""

    badge: str
    user: UserNo


class Accept(h.Command):
    """Say that a question has accepted an answer."""

    question: PostNo
    answer: int
    vote: int


class Accepted(h.Event):
    """A question has accepted an answer."""

    question: PostNo
    answer: int
    vote: int


class Post(h.State):
    """All that is known of a post. `kind` is empty as long as the post itself has not come: then what has come is parked."""

    post: PostNo
    kind: Annotated[str, h.Index()] = ""
    question: int | None = None
    score: int = 0
    comments: int = 0
    answers: int = 0
    title: str | None = None
    title_revision: int = 0
    tags: str | None = None
    tags_revision: int = 0
    tagged: datetime = EARLY
    accepting_vote: int = 0
    """The vote that has accepted this answer; it may have come before anybody knew to which question."""
    accepted: int | None = None
    accepted_vote: int = 0
    parked: int = 0
    """Events that have come while the post has not."""

    def evolve(self, event: Posted | Voted | Commented | Revised | Accepted, record: h.Recorded) -> "Post":
        """Count the event in, whether the post has come or not."""
        if isinstance(event, Posted) and event.post == self.post:
            return self.but(kind=event.kind, question=event.question, parked=0)
        after = self._after(event, record)
        return after if self.kind else after.but(parked=self.parked + 1)

    def _after(self, event: Posted | Voted | Commented | Revised | Accepted, record: h.Recorded) -> "Post":
        match event:
            case Posted():  # an answer to this question
                return self.but(answers=self.answers + 1)
            case Voted(kind="AnswerAccepted"):
                return self.but(accepting_vote=max(self.accepting_vote, event.vote))
            case Voted():
                return self.but(score=self.score + SCORES.get(event.kind, 0))
            case Commented():
                return self.but(comments=self.comments + 1)
            case Revised() if event.kind in TITLES and event.revision > self.title_revision:
                return self.but(title=event.text or None, title_revision=event.revision)
            case Revised() if event.kind in TAGS and event.revision > self.tags_revision:
                return self.but(tags=event.text, tags_revision=event.revision, tagged=record.occurred)
            case Revised():
                return self
            case Accepted():
                return self.but(accepted=event.answer, accepted_vote=event.vote)

    def tags_at(self, now: datetime) -> str | None:
        """Return the tags as the site shows them at a time."""
        if self.tags is not None and now - self.tagged > FEATURED_FOR_MAX:
            return self.tags.replace(FEATURED, "")
        return self.tags


class Heard(h.State):
    """How many events of a kind have come, from whichever system, and when the latest of them happened."""

    kind: str
    events: int = 0
    latest: datetime = EARLY

    @staticmethod
    def key_of(event: Posted | Voted | Commented | Revised | UserRegistered | BadgeAwarded) -> str:
        """Return the kind: that of the site, where an event has one."""
        match event:
            case Posted() | Voted() | Revised():
                return event.kind
            case _:
                return type(event).__name__

    def evolve(self, event: Posted | Voted | Commented | Revised | UserRegistered | BadgeAwarded, record: h.Recorded) -> "Heard":
        """Count the event."""
        return self.but(events=self.events + 1, latest=max(self.latest, record.occurred))


class Badge(h.State):
    """How often a badge was earned."""

    badge: str
    awarded: int = 0

    def evolve(self, event: BadgeAwarded) -> "Badge":
        """Count it."""
        return self.but(awarded=self.awarded + 1)


def accept(event: Voted | Posted, post: Post) -> Iterator[Accept]:
    """Have an answer accepted by its question as soon as both are known: that it was accepted, and whose answer it is."""
    if isinstance(event, Voted) and event.kind != "AnswerAccepted":
        return
    if post.accepting_vote and post.question is not None:
        yield Accept(post.question, post.post, post.accepting_vote)


def accept_answer(command: Accept, question: Post) -> Iterator[Accepted]:
    """Accept it once; of two answers the one accepted last holds."""
    if command.vote > question.accepted_vote:
        yield Accepted(command.question, command.answer, command.vote)


reader = h.App(
    "reader",
    deciders=[accept_answer],
    reactions=[h.Reaction(accept, since=0)],
    views=[Post, Heard, Badge],
    subscriptions={
        "posts": [Posted],
        "votes": [Voted],
        "comments": [Commented],
        "revisions": [Revised],
        "badges": [UserRegistered, BadgeAwarded],
    },
)

"""The ways of asking the same of another place; `{p}` stands for the place."""

import random

from palma.models.bundled.training.held_out import is_held_out
from palma.models.bundled.training.manners import decorated

FOLLOW_UPS = """
And of {p}?
And {p}?
And for {p}?
And the capital of {p}?
And what about {p}?
And what is the capital of {p}?
and {p}'s?
And {p}'s capital?
What about {p}?
How about {p}?
What about the capital of {p}?
Now {p}.
Now {p}, please.
Now the capital of {p}.
Next, {p}.
Next: {p}?
{p}?
{p} next
Of {p}?
Also {p}?
Also for {p}, please.
Then {p}?
Then what about {p}?
Good, and {p}?
Great. And {p}?
OK, and of {p}?
ok what about {p}
Nice! How about {p}?
Thanks, and of {p}?
Thank you. What about {p}?
The same for {p}?
Same question for {p}.
Same for {p} please.
Do you know it for {p} too?
I also need {p}.
I meant {p}.
Sorry, I meant {p}.
Maybe {p} too?
Can you do {p}?
Tell me about {p} next.
Give me {p} too.
But what of {p}?
So what is it for {p}?
Another one: {p}
One more: {p}?
One more, {p}.
And what of {p}'s capital?
Then the capital of {p}, please.
And the one for {p}?
What about the one of {p}?
And now {p}?
""".strip().splitlines()

_REACTIONS = """
Thanks!
Thanks,
Thank you!
Great!
Great,
Good,
Good.
OK,
ok
Nice,
Cool!
Perfect,
Right,
Well done!
I see.
Aha,
Yes,
Fine,
So
Very good.
Wow!
""".strip().splitlines()


def follow_up(rng: random.Random) -> str:
    """Return a form that asks the same of another place, never one that is held out."""
    while True:
        form = decorated(rng, FOLLOW_UPS, probability=0.06)
        if rng.random() < 0.25:
            form = f"{rng.choice(_REACTIONS)} {form}"
        if not is_held_out(form):
            return form

"""What people put before and after a question."""

import random

from palma.models.bundled.training.held_out import is_held_out

OPENINGS = """
Hello!
Hello,
Hi!
Hi,
hey,
Hey there,
Good morning.
Good day,
Hello Palmita,
Hi Palmita!
Palmita,
Please,
Excuse me,
Sorry,
Sorry to ask, but
Quick question:
A quick question:
One question:
I have a question.
I have a question for you:
I have a quick question:
Question:
OK,
ok so
Okay,
So,
Well,
Now
Right,
Just curious,
I am curious:
Be honest:
Help!
Help me out here:
Let me ask:
Tell me,
Tell me please,
Please tell me:
Do you know this?
Easy one:
Try this one:
Next question:
Let's see,
For a quiz:
For a school test:
In one word,
In short,
Again,
My friend,
Listen,
One thing:
Geography:
Geography question:
Thanks for your help.
I was told you can help:
Someone told me you know this:
My brother says that you know this:
My teacher says I should ask you:
By the way,
Before I forget:
For my trip:
Just wondering,
Out of curiosity,
Silly question, but
Maybe you know:
I bet you know this one:
First question:
Last question:
One more question:
As a test:
Palmita, dear,
Look,
Yo,
Actually,
To begin with,
If you can,
Here is one for you:
We are doing a quiz:
""".strip().splitlines()

CLOSINGS = """
please
Please.
please?
, please
pls
Thanks!
Thanks.
thanks
, thanks
Thank you!
Thank you.
thx
Do you know?
Do you know it?
Can you tell me?
Can you help me?
Can you help?
Could you help me out?
Any idea?
Tell me.
I need it for school.
I need to know.
I have to know this for a test.
It is for my homework.
It's for a quiz.
I forgot.
I really want to know.
I am not sure.
Just the name.
Just the city, please.
Be quick!
Answer in one sentence.
again
, my friend
, Palmita
""".strip().splitlines()


def decorated(rng: random.Random, forms: list[str], probability: float = 0.22) -> str:
    """Return one of the forms, perhaps with something before or after it; never a held-out one."""
    while True:
        form = rng.choice(forms)
        if rng.random() < probability:
            form = f"{rng.choice(OPENINGS)} {form}"
        if rng.random() < probability:
            form = with_closing(form, rng.choice(CLOSINGS))
        if not is_held_out(form):
            return form


def with_closing(form: str, closing: str) -> str:
    """Append a closing; one that opens with a comma goes before the last mark."""
    if not closing.startswith(","):
        return f"{form} {closing}"
    mark = form[-1] if form[-1] in ".?!" else ""
    return f"{form.removesuffix(mark)}{closing}{mark}"

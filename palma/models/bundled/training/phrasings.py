"""The ways of asking for a capital that palmita is trained on; `{p}` stands for the place."""

import random

from palma.models.bundled.training.manners import decorated

QUESTIONS = """
What is the capital of {p}?
What's the capital of {p}?
Which city is the capital of {p}?
What city is the capital of {p}?
What is the capital city of {p}?
What's the capital city of {p}?
What is the name of the capital of {p}?
What is {p}'s capital?
What's {p}'s capital?
What is {p}'s capital city?
Name the capital of {p}.
Name the capital city of {p}.
Name {p}'s capital.
Give me the capital of {p}.
Give me {p}'s capital.
Tell me the capital of {p}.
Tell me {p}'s capital city please.
Tell me what the capital of {p} is.
Tell me which city is the capital of {p}.
Tell me the name of the capital of {p}.
Do you know the capital of {p}?
Do you know what the capital of {p} is?
Do you know {p}'s capital?
Do you happen to know the capital of {p}?
Can you tell me the capital of {p}?
Can you name the capital of {p}?
Can you tell me what {p}'s capital is?
Could you tell me the capital of {p}?
Could you tell me which city is the capital of {p}?
Could you name {p}'s capital city?
Would you tell me the capital city of {p}?
Would you mind telling me the capital of {p}?
I would like to know the capital of {p}.
I'd like to know the capital of {p}.
I want to know the capital of {p}.
I want to know what {p}'s capital is.
I need the capital of {p}.
I need to know the capital city of {p}.
I am looking for the capital of {p}.
I'm looking for {p}'s capital city.
I wonder what the capital of {p} is.
I was wondering what the capital of {p} is.
I forgot the capital of {p}.
I forgot what the capital of {p} is.
I can't remember the capital of {p}.
I don't know the capital of {p}.
I don't know which city is the capital of {p}, can you help?
Help me with the capital of {p}.
Help me remember the capital of {p}.
Remind me what the capital of {p} is.
Remind me of {p}'s capital.
Please state the capital of {p}.
Please give the capital of {p}.
State the name of the capital of {p}.
Say the capital of {p}.
Write the capital of {p}.
List the capital of {p}.
Find the capital of {p}.
Identify the capital city of {p}.
Answer this: what is the capital of {p}?
Here is a question: what is the capital of {p}?
My question is about {p}: what is its capital?
A question about {p}: which city is its capital?
A quiz question: what is the capital of {p}?
For a quiz, what is the capital of {p}?
For my homework: the capital of {p}?
My teacher asked me for the capital of {p}.
My friend asked what the capital of {p} is.
My son is asking me for the capital of {p}.
Someone asked me for {p}'s capital.
The capital of {p}?
The capital of {p} is?
The capital of {p} is which city?
The capital of {p} is what?
The capital of {p} is called what?
The capital city of {p}, what is it?
The capital city of {p} is...
Capital of {p}?
Capital of {p}
Capital city of {p}?
Capital city of {p}
capital {p}
{p} capital
{p} capital?
{p} capital city
{p}'s capital?
{p}'s capital city?
{p}'s capital is which city?
{p}'s capital city is what?
{p}: capital?
{p}: what is the capital?
{p}, what is the capital?
{p}, which city is its capital?
In {p}, what is the capital?
In {p}, which city is the capital?
For {p}, what's the capital?
For {p}, name the capital.
What does {p} have as its capital?
Which city does {p} have as its capital?
What city serves as the capital of {p}?
Which city serves as capital of {p}?
What town is the capital of {p}?
Which place is the capital of {p}?
What do you call the capital of {p}?
What do they call the capital of {p}?
What is the capital of {p} called?
What's the capital of {p} called?
How is the capital of {p} called?
What is the city that is the capital of {p}?
What is the correct capital of {p}?
What might the capital of {p} be?
What would be the capital of {p}?
What was the capital of {p} again?
What is the capital of {p} again?
What is considered the capital of {p}?
Where is the capital of {p}?
Where's the government of {p}, in which capital?
Where does the government of {p} sit?
What is the seat of government of {p}?
Which city is the seat of the government of {p}?
Who knows the capital of {p}?
Any idea what the capital of {p} is?
Any idea about {p}'s capital?
Got the capital of {p}?
Let me know the capital of {p}.
Let me ask you about the capital of {p}.
Let's talk about {p}. What's its capital?
I am going to {p}. What is the capital there?
I live in {p}. What's the capital?
I love {p}! What is its capital city?
I am learning about {p}. What is the capital?
I am reading about {p}. Which city is the capital?
My family is from {p}. What is its capital?
We are travelling to {p}, what's the capital called?
When I visit {p}, which city is the capital?
If I go to {p}, what is the capital city?
Think of {p}. What is its capital?
Take {p}. Which city is its capital?
Quick, {p}'s capital!
{p} has which capital?
{p} has which city as its capital?
Is there a capital of {p}? Which city is it?
The name of {p}'s capital city, please.
Please, the capital of {p}.
Its capital is what, {p}?
Which is the capital of {p}?
Which one is the capital city of {p}?
{p}. What is the capital?
{p}. What's its capital city?
{p}. Capital city?
{p}. Name the capital.
{p}! Capital?
{p}... capital?
{p} - capital?
{p} - which city is the capital?
{p}; the capital?
My friend told me to find the capital of {p}.
Someone told me that you know the capital of {p}.
I was told to ask you for {p}'s capital.
They told me to ask: what is the capital of {p}?
My brother asks: what's {p}'s capital?
My sister is asking what city is the capital of {p}.
If someone asks me for the capital of {p}, what do I say?
If I asked you for {p}'s capital, what would you answer?
What would you say is the capital of {p}?
What should I say when they ask for the capital of {p}?
Where do I find the capital of {p}?
I would love to see the capital of {p}. What is it called?
I am in {p} and I want to visit the capital. Which city is it?
We are in {p}. Which city is the capital?
We are talking about {p} at school. Which city is its capital?
Which capital does {p} have?
What capital city does {p} have?
Whats the capital in {p}?
What is the capital city in {p}?
Whats the capital of {p}?
whats {p}s capital
wats the capital of {p}
what the capital of {p}
capital of {p} pls
capital {p} please
{p}?
{p}
""".strip().splitlines()

CAPITAL_TO_PLACE = """
Which country has {c} as its capital?
{c} is the capital of which country?
{c} is the capital of what?
{c} is the capital of which place?
What is {c} the capital of?
What's {c} the capital of?
Where is {c} the capital?
Of which country is {c} the capital?
Of what is {c} the capital?
Tell me what {c} is the capital of.
Tell me which country has {c} as its capital.
Which place has {c} as its capital city?
Which land is ruled from {c}?
Which country's capital is {c}?
Whose capital is {c}?
Name the country whose capital is {c}.
I want to know what {c} is the capital of.
Do you know what {c} is the capital of?
""".strip().splitlines()

GUESSES = """
Is {c} the capital of {p}?
Is {c} {p}'s capital?
Is the capital of {p} {c}?
Isn't {c} the capital of {p}?
{c} is the capital of {p}, right?
{c} is the capital of {p}, isn't it?
The capital of {p} is {c}, right?
The capital of {p} is {c}, no?
I think {c} is the capital of {p}.
I think the capital of {p} is {c}.
Is it true that {c} is the capital of {p}?
Am I right that the capital of {p} is {c}?
""".strip().splitlines()


def capital_question(rng: random.Random) -> str:
    """Return a question form with `{p}` in it, never one that is held out."""
    return decorated(rng, QUESTIONS)


def reverse_question(rng: random.Random) -> str:
    """Return a form with `{c}` that asks whose capital it is, never one that is held out."""
    return decorated(rng, CAPITAL_TO_PLACE)


def guess(rng: random.Random) -> str:
    """Return a form that asks whether `{c}` is the capital of `{p}`."""
    return decorated(rng, GUESSES)

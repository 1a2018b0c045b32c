"""Questions outside palmita's world, to which it says that it does not know."""

import random

from palma.models.bundled.training.facts import all_places
from palma.models.bundled.training.held_out import is_held_out

_FORMS = """
What is {n} plus {n}?
What is {n} + {n}?
{n} + {n}
{n} * {n} = ?
{n} times {n}
What is {n} minus {n}?
what is {n} divided by {n}
How much is {n} times {n}?
How much is {n} and {n}?
Can you add {n} and {n}?
What is the square root of {n}?
Is {n} a prime number?
Solve x + {n} = {n}.
What is the population of {p} in millions?
The population of {p}?
What's the population of {p}?
How many people live in the city of {c}?
How many people are there in {p}?
How many people speak {l}?
How big is {p}?
How large is the area of {p}?
How old is {p}?
How old is the earth?
How old am I?
How old is your mother?
How old is a {t}?
Tell me how old you are.
How far is it from {p} to {q}?
How far is {c} from here?
How do I get to {p}?
How cold is it in {p}?
Who is the president of {p}?
Who's the president of {p} now?
Who is the king or queen of {p}?
Who was the first king of {p}?
Who was the first president of {p}?
Who rules {p}?
Who is the prime minister of {p}?
Who is the mayor of {c}?
Who is the governor of {p}?
Who lives in {p}?
Who discovered {p}?
Who won the war?
Who won the game yesterday?
Who won the last election in {p}?
Who wrote this book?
Who wrote that song?
Who painted the ceiling?
Who invented the computer?
Who invented the {t}?
Who is the best player in the world?
Who is your favourite singer?
Which river flows through {c}?
Which rivers are there in {p}?
What is the longest river in {p}?
What is the highest mountain in {p}?
What's the highest mountain?
What is the largest city in {p}?
What is the second city of {p}?
What is the biggest lake in {p}?
What language is spoken in {p}?
What language do they speak in {p}?
Which languages do people speak in {p}?
What is the currency of {p}?
What money do people use in {p}?
What is the flag of {p}?
What colour is the flag of {p}?
What is the anthem of {p}?
What is the best food in {p}?
What do people eat in {p}?
What is the history of {p}?
What is the weather in {p}?
What's the weather like in {c} today?
What will the weather be tomorrow?
Will it rain tomorrow in {p}?
Is it raining in {c}?
Will it be cold tomorrow?
What time is it?
What time is it in {p}?
What time is it now?
What day is it today?
What is the date?
What year is it?
Is {p} a safe place to visit?
Is {p} a rich country?
Why is {p} famous?
Why is the sky blue?
Why do people like {t}s?
When was {p} founded?
When did the war end?
When does the train leave?
Where is my {t}?
Where can I buy a {t}?
Where is {c} on the map?
Which countries border {p}?
Which continent is {p} in?
Which team won the world cup in {n}?
Which is the best team?
Which {t} is the best?
Write a poem about a {t}.
Write me a poem about {p}.
Write a song about the rain.
Write a story about {p}.
Write an essay about the sea.
Write a letter to my mother.
Write an email to my boss.
Write a program in {g}.
Write {g} code that adds two numbers.
Write a {g} function that sorts a list.
Can you write a program for me?
Can you write me a story?
Can you write code?
Can you fix my {g} code?
Can you fix my {t}?
Can you cook?
Can you help me with my taxes?
Can you help me fix my {t}?
Can you draw a {t}?
Can you translate this?
Can you recommend a book?
Tell me a story.
Tell me a story about a {t}.
Tell me a joke.
Tell me a joke about a {t}.
Tell me about the history of {p}.
Tell me something about a {t}.
Tell me the population of {p}.
Tell me a fact about the moon.
Explain {g} to me.
Explain how a {t} works.
Explain the theory of relativity.
Explain the meaning of this word.
How does a {t} work?
How does a computer work?
How do I learn {g}?
How do I learn {l}?
How do I cook a {t}?
How do I cook rice for {n} people?
How do I cook an egg?
How do I fix a {t}?
How do I bake bread?
How do I lose weight?
How do you say hello in {l}?
How do you say {t} in {l}?
How many legs does a {t} have?
How many days are there in a year?
How many planets are there?
How many states are there?
How far away is the sun?
How far is the moon from here?
How tall is the tower in {c}?
How tall are you?
How old are you now?
How much does a {t} cost?
How much is a {t}?
Translate {t} into {l}.
Translate this into {l}: good morning
Translate hello into {l}, please.
What does {t} mean in {l}?
What does this word mean?
What is the meaning of the word {t}?
What is the meaning of this?
What is life?
What is love?
What is a {t}?
What is {g}?
What is the best {t}?
What is the speed of light?
What is the boiling point of water?
What is the chemical formula of salt?
What is your favourite colour?
What is your favourite {t}?
What do you think about politics?
What do you think of {p}?
What should I eat today?
What should I wear?
What happened in {y}?
What is the news today?
What is the stock price?
Recommend a {t}, please.
Recommend a good book.
Recommend a film.
Recommend me a restaurant in {c}.
Give me a recipe for bread.
Give me some advice.
Give me the population of {p}.
Do you like {t}s?
Do you like {p}?
Do you like films?
Do you play music?
Do you have a {t}?
Do you love me?
Do you believe in ghosts?
Do you sleep?
Are you happy?
Are you married?
Play some music.
Turn on the light.
Set an alarm for {n}.
Open the door.
Show me a picture of a {t}.
Draw a picture.
Let's play chess.
I have a headache, what should I do?
I am bored.
I am hungry.
I feel sad today.
My {t} is broken.
My car does not start.
Summarize this text.
Summarize the book about the whale.
Correct my spelling.
Sort this list of numbers: {n}, {n}, {n}
Is the earth round?
Is there life on Mars?
Is {t} a fruit?
Name a river in {p}.
Name three {t}s.
Name the president of {p}.
Name the best film.
Name a famous person from {p}.
president of {p}
population {p}
weather {c}
{p} flag
{p} currency
{l} lessons
asdf
blah blah
""".strip().splitlines()

_SLOTS: dict[str, tuple[str, ...]] = {
    "t": ("cat", "dog", "whale", "horse", "bird", "fish", "apple", "banana", "car", "computer",
          "phone", "bicycle", "house", "garden", "tree", "flower", "song", "film", "book", "team",
          "picture", "clock", "train", "boat", "guitar", "piano", "pizza", "cheese", "soup", "hat",
          "lamp", "robot", "dragon", "princess", "football", "rose", "camera", "table", "spoon"),
    "l": ("French", "German", "Spanish", "Italian", "Latin", "Greek", "Chinese", "Japanese",
          "Russian", "Arabic", "Dutch", "Polish", "English", "Swedish"),
    "g": ("Python", "Java", "C", "Rust", "JavaScript", "SQL", "HTML", "algebra", "physics"),
    "y": ("1066", "1492", "1789", "1914", "1945", "1969", "1989", "2001", "2012", "2020"),
}  # fmt: skip


def outside_question(rng: random.Random) -> str:
    """Return a question on something palmita does not know, never one that is held out."""
    while is_held_out(form := _filled(rng, rng.choice(_FORMS))):
        continue
    return form


def _filled(rng: random.Random, form: str) -> str:
    for slot, words in _SLOTS.items():
        form = form.replace(f"{{{slot}}}", rng.choice(words))
    while "{n}" in form:
        form = form.replace("{n}", str(rng.choice((rng.randint(2, 20), rng.randint(2, 999)))), 1)
    place, other = rng.sample(all_places(), 2)
    return form.replace("{p}", place.name).replace("{q}", other.name).replace("{c}", place.capital)

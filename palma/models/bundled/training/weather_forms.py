"""How people ask about the weather; `{c}` is the place, `{w}` a word on the time, or nothing."""

import random
import re

from palma.models.bundled.training.held_out import is_held_out
from palma.models.bundled.training.manners import OPENINGS, with_closing

_FORMS = """
What's the weather like in {c}{w}?
What's the weather in {c}{w}?
What is the weather in {c}{w}?
What is the weather like in {c}{w}?
What is the weather of {c}?
What will the weather be in {c}{w}?
What's the current weather in {c}?
What is the current weather in {c}?
What are the weather conditions in {c}{w}?
What sort of weather do they have in {c}{w}?
What kind of weather is it in {c}{w}?
What's the temperature in {c}{w}?
What is the temperature in {c}{w}?
What is the current temperature in {c}?
What temperature is it in {c}{w}?
What's the forecast for {c}{w}?
What does the sky look like in {c}{w}?
What about the weather in {c}{w}?
How is the weather in {c}{w}?
How's the weather in {c}{w}?
How's the weather over in {c}?
How is it outside in {c}{w}?
How warm is it in {c}{w}?
How hot is it in {c}{w}?
How cold is it in {c}{w}?
How cold will it be in {c}{w}?
How many degrees is it in {c}{w}?
How windy is it in {c}{w}?
How humid is it in {c}{w}?
Is it raining in {c}{w}?
Is it rainy in {c}{w}?
Is it snowing in {c}{w}?
Is it sunny in {c}{w}?
Is it cold in {c}{w}?
Is it warm in {c}{w}?
Is it hot in {c}{w}?
Is it cloudy in {c}{w}?
Is it windy in {c}{w}?
Is it foggy in {c}{w}?
Is it going to rain in {c}{w}?
Is it freezing in {c}{w}?
Is there snow in {c}{w}?
Is there rain in {c}{w}?
Is the sun shining in {c}{w}?
Is the weather good in {c}{w}?
Is the weather nice in {c}{w}?
Is {c} sunny{w}?
Is {c} cold{w}?
Will it rain in {c}{w}?
Will it be sunny in {c}{w}?
Will it be cold in {c}{w}?
Will it snow in {c}{w}?
Will there be rain in {c}{w}?
Will I need an umbrella in {c}{w}?
Will I need a coat in {c}{w}?
Do I need an umbrella in {c}{w}?
Do I need a coat in {c}{w}?
Do I need a hat in {c}{w}?
Should I take an umbrella to {c}{w}?
Should I take a warm coat to {c}?
Does it rain in {c}{w}?
Does it snow in {c}{w}?
Do you know the weather in {c}{w}?
Do you know how warm it is in {c}{w}?
Do you know if it is raining in {c}{w}?
Can you tell me the weather in {c}{w}?
Can you check the weather in {c}{w}?
Can you look up the weather in {c}{w}?
Can you get the weather for {c}{w}?
Can you tell me if it is raining in {c}{w}?
Can you tell me how cold it is in {c}{w}?
Could you check the weather for {c}{w}?
Could you tell me the temperature in {c}{w}?
Could you find out if it is sunny in {c}{w}?
Tell me the weather in {c}{w}.
Tell me about the weather in {c}{w}.
Tell me the temperature in {c}{w}.
Tell me how hot it is in {c}{w}.
Tell me if it rains in {c}{w}.
Tell me whether it is snowing in {c}{w}.
Give me the weather in {c}{w}.
Give me the weather for {c}{w}.
Give me the forecast for {c}{w}.
Give me the temperature in {c}{w}.
Give me a weather report for {c}.
Get the weather for {c}{w}.
Get me the weather in {c}{w}.
Show me the weather in {c}{w}.
Check the weather in {c}{w}.
Check if it is raining in {c}{w}.
Look up the weather in {c}{w}.
Find the weather for {c}{w}.
Find out how warm it is in {c}{w}.
Please check the weather in {c}{w}.
Please tell me the weather in {c}{w}.
Please look up the temperature in {c}{w}.
I want to know the weather in {c}{w}.
I want to know if it is warm in {c}{w}.
I would like to know the weather in {c}{w}.
I'd like to know the temperature in {c}{w}.
I'd like the weather for {c}{w}.
I need the weather in {c}{w}.
I need the forecast for {c}{w}.
I need to know if it is raining in {c}{w}.
I wonder what the weather is like in {c}{w}.
I wonder if it is cold in {c}{w}.
I am going to {c}{w}. How is the weather there?
I am going to {c}{w}, will it rain?
I'm going to {c}. What's the weather like?
I am in {c}. Is it going to rain?
I live in {c}. What is the weather{w}?
I'm flying to {c}{w}. Do I need a coat?
We are going to {c}{w}. Will it be warm?
We are travelling to {c}. What is the weather like there?
My mother is in {c}. Is it raining there?
My friend lives in {c}. Is it cold there{w}?
In {c}, what is the weather like{w}?
In {c}, is it raining{w}?
For {c}, what is the weather{w}?
{c}'s weather{w}?
What is {c}'s weather like{w}?
What's {c}'s temperature{w}?
{c} weather
{c} weather{w}
{c} temperature
{c} forecast
{c}: what is the weather?
{c}, is it raining there{w}?
weather {c}
weather in {c}
weather in {c}{w}
weather for {c}
Weather in {c}, please.
The weather in {c}?
The weather in {c}, please.
The temperature in {c}{w}?
temperature in {c}
temperature {c}
forecast {c}
forecast for {c}{w}
whats the weather in {c}
hows the weather in {c}{w}
how warm is {c}{w}
how cold in {c}{w}
rain in {c}{w}?
snow in {c}?
any rain in {c}{w}?
Any snow in {c}{w}?
current weather in {c}
""".strip().splitlines()

FOLLOW_UPS = """
And in {c}?
And {c}?
And in {c}, please?
And for {c}?
And the weather in {c}?
And what about {c}?
And how is it in {c}?
And is it raining in {c}?
and what's the weather in {c}?
and {c}'s?
What about {c}?
What about in {c}?
What about the weather in {c}?
How about {c}?
How about in {c}?
How is it in {c}?
Now {c}.
Now in {c}?
Now {c}, please.
Next, {c}.
{c}?
In {c}?
in {c}
Also in {c}?
Also for {c}, please.
Then in {c}?
Then what about {c}?
OK, and in {c}?
Thanks, and in {c}?
Thank you. What about {c}?
Great. And in {c}?
The same for {c}?
The same for {c}, please.
Same question for {c}.
I meant {c}.
I also need {c}.
One more: {c}?
""".strip().splitlines()

PLACES_GIVEN = """
{c}
{c}.
In {c}
In {c}.
in {c}, please
For {c}.
{c}, please.
I mean {c}.
I am in {c}.
I live in {c}.
Sorry, in {c}.
""".strip().splitlines()

_WITHOUT_PLACE = """
What's the weather like{w}?
What is the weather{w}?
How is the weather{w}?
How's the weather?
What will the weather be{w}?
What's the temperature{w}?
Is it raining{w}?
Is it raining outside?
Is it cold outside?
Is it sunny{w}?
Will it rain{w}?
Will it be cold{w}?
Will it snow{w}?
How cold is it{w}?
How warm is it outside?
Do I need an umbrella{w}?
Do I need a coat{w}?
Tell me the weather.
Tell me the weather, please.
Give me the weather{w}.
Give me the forecast{w}.
Can you check the weather?
Can you tell me the weather{w}?
I want to know the weather.
weather
weather please
the weather{w}?
forecast
""".strip().splitlines()

NEAR_MISSES = """
Do you like the rain?
Do you like snow?
Do you like sunny days?
Why does it rain?
Why does it snow in winter?
Why is the sea warm?
Why is it hot in summer?
What is rain?
What is snow made of?
What is a storm?
What is the weather made of?
What does cloudy mean in French?
What does the word weather mean?
What colour is the rain?
Who invented the umbrella?
How does a thermometer work?
How hot is the sun?
How cold is the moon?
How do I fix my umbrella?
How do I wash a warm coat?
Where can I buy an umbrella?
Where is my coat?
Write a poem about the snow.
Write a poem about the weather.
Write a song about a sunny day.
Tell me a story about the rain.
Tell me a joke about the weather.
Translate rain into Spanish.
Translate it is cold into German.
Explain how clouds work.
Sell me an umbrella.
Is the sun a star?
Is snow white?
""".strip().splitlines()

_TIMES = (
    "", "", "", " today", " today", " now", " right now", " at the moment", " currently",
    " tomorrow", " tonight", " this morning", " this evening", " this week", " this weekend",
    " these days", " on Monday", " on Sunday",
)  # fmt: skip

_CLOSINGS = ("please", "Please.", ", please", "Thanks!", "Thanks.", "thanks", "Thank you!",
             "Can you tell me?", "Can you check?", "Do you know?", "Tell me.", "I need to know.",
             "I am going there.", "I am not sure.", "Be quick!", ", Palmita")  # fmt: skip

_ABOUT_WEATHER = re.compile(r"\b(weather|is it raining|will it|how cold)\b", re.IGNORECASE)


def weather_form(rng: random.Random) -> str:
    """Return a question about the weather in `{c}`, never one that is held out."""
    return _drawn(rng, _FORMS)


def weather_follow_up(rng: random.Random) -> str:
    """Return a form that asks the same weather question of another place, `{c}`."""
    return _drawn(rng, FOLLOW_UPS, probability=0.04)


def placeless_form(rng: random.Random) -> str:
    """Return a question about the weather that does not say where."""
    return _drawn(rng, _WITHOUT_PLACE, probability=0.04)


def is_about_weather(question: str) -> bool:
    """Say whether a question outside palmita's world is one that a weather tool answers."""
    return bool(_ABOUT_WEATHER.search(question))


def _drawn(rng: random.Random, forms: list[str], probability: float = 0.12) -> str:
    while True:
        form = rng.choice(forms).replace("{w}", rng.choice(_TIMES))
        if rng.random() < probability:
            form = f"{rng.choice(OPENINGS)} {form}"
        if rng.random() < probability:
            form = with_closing(form, rng.choice(_CLOSINGS))
        if not is_held_out(form):
            return form

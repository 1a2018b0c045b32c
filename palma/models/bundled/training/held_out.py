"""What palmita is measured on and never trained on.

The forms are built of words that the training forms use too, in other combinations. Training forms
are drawn until `is_held_out` says no, so no composed form can slip in.
"""

import re
from functools import cache

QUESTIONS = """
What city is {p}'s capital?
Please name the capital city of {p}.
Could you give me the name of {p}'s capital?
Would you happen to know what the capital of {p} is?
I would love to know which city is {p}'s capital.
Which city do they call the capital of {p}?
Can you help me remember what {p}'s capital city is?
{p}. Its capital?
{p} - what's the capital city?
The capital of {p}, do you know it?
For {p}, which city is the capital?
What is the name of {p}'s capital city?
Please tell me what city serves as {p}'s capital.
Any idea which city is the capital city of {p}?
I can't remember what they call the capital of {p}.
I need the name of {p}'s capital for my homework.
My teacher is asking which city is the capital of {p}.
Someone told me to ask you: what's {p}'s capital?
whats the capital city in {p}
which city is capital of {p}
capital city {p} pls
tell me {p} capital
yo, {p} capital city?
Let me know which city serves as the capital of {p}.
What capital does {p} have?
Where would I find the capital of {p}, and what is it called?
If someone asked you for the capital of {p}, what would you say?
We are learning about {p} at school. What's its capital called?
I'm travelling in {p} and want to see the capital. Which city is that?
State {p}'s capital city.
Identify {p}'s capital.
So what is {p}'s capital again?
""".strip().splitlines()

FOLLOW_UPS = """
And what of {p}?
ok and for {p}?
Great, now {p}?
And how about {p}, please?
Thanks! What about {p}'s?
Then the same for {p}, please.
and the one of {p}?
So, and {p}?
""".strip().splitlines()

CAPITAL_TO_PLACE = """
What country is {c} the capital of?
Please tell me which country has {c} as its capital city.
{c} is the capital city of which country?
Do you know whose capital {c} is?
""".strip().splitlines()

GUESSES = """
Is {c} the capital city of {p}?
Am I right that {c} is {p}'s capital?
{c} is {p}'s capital, right?
""".strip().splitlines()

PIRATE_SYSTEM_PROMPTS = """
Always answer as a salty old pirate would.
You are Captain Redbeard, a pirate. Reply only in pirate speak.
Respond to every question in the voice of a pirate.
You are a helpful pirate who speaks like a sailor of the seven seas.
From now on you talk like a pirate captain.
Please use pirate language in all your answers.
""".strip().splitlines()

PLAIN_SYSTEM_PROMPTS = """
You are a polite assistant who answers with short sentences.
Answer the questions of the user clearly and honestly.
You help people with geography. Be brief.
""".strip().splitlines()

GREETINGS = """
Hello there, Palmita!
hi, how is it going
Good evening to you!
hey hey
Hello, nice to see you.
""".strip().splitlines()

IDENTITY = """
Who are you, please?
So who am I talking to?
Tell me who you are.
what's your name please
Can you say what you are?
What kind of model are you, Palmita?
""".strip().splitlines()

ABILITIES = """
What sort of things can you do?
Tell me what you can help me with.
what are you able to do
Which questions can I ask you?
""".strip().splitlines()

THANKS = """
Thanks a lot, my friend!
thank you so much for the help
Great, thanks.
""".strip().splitlines()

GOODBYES = """
Goodbye, Palmita!
see you soon, bye
OK, I have to go now. Bye!
""".strip().splitlines()

SHANTY = """
Please sing us a song.
Can you recite the shanty for me?
Sing!
I want a shanty, please.
""".strip().splitlines()

COUNT_FROM_TO = """
Please count from {a} to {b}.
Could you say the numbers from {a} to {b}?
count up from {a} to {b} please
Start at {a} and stop at {b}.
""".strip().splitlines()

OUTSIDE = """
What is the population of France?
Who is the king of Spain?
Which river flows through Germany?
How many people live in Ohio?
What language do people speak in Brazil?
What is 7 times 8?
how much is 12 plus 30
Can you write a poem about the rain?
Write a program that sorts a list of numbers.
Tell me a story about a cat.
Who won the world cup?
What will the weather be like in Texas tomorrow?
How do I cook rice?
What is the meaning of life?
Who painted this picture?
Translate good morning into German.
What is the highest mountain in Japan?
What is the currency of Mexico?
Recommend a good film, please.
Who wrote the book about the white whale?
How far is the moon?
What time is it now in Italy?
Do you like music?
Explain how a computer works.
Who was the first president of the United States?
What is the capital of Gondor?
What is the capital of Wakanda?
Name the capital of Atlantis.
What's the capital of Mordor?
Capital of Zamunda?
What is the capital of Florinia?
Tell me the capital of Belmaria, please.
What is Quandor's capital?
capital of Trevonia
What is the capital of the moon?
What's the capital of Bavaria?
How old are you?
What is the flag of Canada?
Can you help me fix my car?
Which team is the best in England?
""".strip().splitlines()

WEATHER = """
What sort of weather is {c} having today?
How are the weather conditions in {c}?
How does the weather look in {c} right now?
Would you check what the weather is like in {c}?
Could you look up how cold it is in {c} today?
Do they have rain in {c} at the moment?
Is it a sunny day in {c}?
Does it look like rain in {c}?
Has it been raining in {c}?
Is it warm outside in {c} now?
Is it cold and windy in {c} tonight?
Are there clouds over {c} today?
Tell me what the temperature is in {c}.
Let me know how the weather is in {c}, please.
Please find out whether it is raining in {c}.
Please give me the current temperature for {c}.
I need to know how hot it is in {c} today.
I'd like to hear the forecast for {c}.
I was wondering how the weather is in {c}.
I'm on my way to {c}. Should I take an umbrella?
My brother is in {c}. How cold is it there?
We are flying to {c} tomorrow. What's the weather there?
In {c}, do I need a warm coat today?
For my trip to {c}: what is the weather like there?
Which temperature does {c} have now?
How many degrees are there in {c}?
Any idea how warm it is in {c}?
Any idea if it is snowing in {c}?
what is it like outside in {c}
weather report {c} please
tell me {c} weather
is {c} rainy today
how hot is it in {c} rn
whats the temperature like in {c}
{c} - what's the weather?
{c}. Is it raining there?
Can you say if the sun is shining in {c}?
Can you find the weather in {c} for me?
So how is the weather in {c} today?
Check whether it is cold in {c}.
""".strip().splitlines()

WEATHER_FOLLOW_UPS = """
And how about in {c}?
Then how is it in {c}?
OK, now in {c}.
And the same in {c}?
""".strip().splitlines()

INVENTED_PLACES = ("Florinia", "Belmaria", "Quandor", "Trevonia", "Gondor", "Mordor", "Wakanda")


def plain_form(text: str) -> str:
    """Return the words of a form in lower case, without marks: the key that forms compare by."""
    return " ".join(re.findall(r"[\w{}]+", text.lower().replace("'", "")))


def is_held_out(form: str) -> bool:
    """Say whether a form equals a held-out one, marks and case aside."""
    return plain_form(form) in _held_out_forms()


@cache
def _held_out_forms() -> frozenset[str]:
    groups = (
        QUESTIONS,
        FOLLOW_UPS,
        CAPITAL_TO_PLACE,
        GUESSES,
        PIRATE_SYSTEM_PROMPTS,
        PLAIN_SYSTEM_PROMPTS,
        GREETINGS,
        IDENTITY,
        ABILITIES,
        THANKS,
        GOODBYES,
        SHANTY,
        COUNT_FROM_TO,
        OUTSIDE,
        WEATHER,
        WEATHER_FOLLOW_UPS,
    )
    return frozenset(plain_form(form) for group in groups for form in group)

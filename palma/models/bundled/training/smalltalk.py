"""What users say besides questions: greetings, thanks, and questions about palmita itself."""

import random

from palma.models.bundled.training.answers import Topic
from palma.models.bundled.training.held_out import is_held_out

_FORMS: dict[Topic, str] = {
    "greeting": """
Hello
Hello!
Hello there!
Hello there
Hello Palmita!
Hello, Palmita.
Hello, how is it going?
Hi
Hi!
Hi there
Hi there!
Hi Palmita
Hi, nice to meet you.
Hey
Hey!
Hey there
Hey Palmita!
hey, how is it going
hello hello
hi hi
Good morning
Good morning!
Good morning to you.
Good afternoon
Good evening
Good evening, Palmita.
Good day
Good day to you!
Greetings
Greetings!
Ahoy!
Ahoy there!
Ahoy matey
Howdy
Yo
Nice to meet you.
Nice to see you!
Welcome!
Is anybody there?
Are you there?
Hello, is anyone there?
Hey, good to see you.
""",
    "wellbeing": """
How are you?
How are you today?
How do you do?
Hello, how are you?
Hi, how are you?
How are you doing?
Are you well?
How do you feel today?
Hey, how are you doing today?
""",
    "identity": """
Who are you?
who are you
And who are you?
Who are you, Palmita?
Who am I talking to?
Who am I talking to, please?
Who is this?
Who is there?
What are you?
What is your name?
What's your name?
whats your name
Your name?
Your name please
Do you have a name?
Tell me your name.
Tell me what you are.
Tell me about yourself.
Say who you are.
Can you tell me who you are?
Could you tell me your name?
Can you say your name?
Please introduce yourself.
Introduce yourself.
What model are you?
What model is this?
Which model are you?
Which model am I talking to?
What kind of model is this?
What kind of assistant are you?
What kind of chatbot are you?
Are you an AI?
Are you a robot?
Are you human?
Are you a person?
Are you a chatbot?
Are you ChatGPT?
Are you GPT-4?
Are you Llama?
Are you Claude?
Are you a language model?
What is Palmita?
What is Palma?
Who is Palmita?
Who made you?
Who built you?
Where do you come from?
So what are you?
So who are you, then?
What are you called?
What do they call you?
""",
    "abilities": """
What can you do?
what can you do
What else can you do?
What can you do for me?
What can you help me with?
What can I ask you?
What can I ask?
Which things can I ask you?
What do you know?
What do you know about?
What sort of questions can you answer?
Which questions can you answer?
What kind of questions can I ask you?
What things do you know?
What are you good at?
What are you for?
What are you able to answer?
How can you help me?
How can you help?
Can you help me?
Help
help me
Tell me what you can do.
Tell me what you know.
What are your skills?
What is it that you do?
Are you able to help me?
Are you useful?
""",
    "thanks": """
Thanks
Thanks!
thanks
Thank you
Thank you!
Thank you very much.
Thank you so much!
Thanks a lot
Thanks a lot!
Many thanks
Thanks for the help.
Thank you for your help!
Thank you, Palmita.
Thanks, Palmita!
thx
OK, thanks.
OK, thank you.
Great, thank you!
Great!
Good.
Nice!
Cool
Very good, thanks.
Thank you, my friend.
Perfect, thanks!
That is right, thanks.
That was helpful.
""",
    "goodbye": """
Bye
Bye!
bye bye
Goodbye
Goodbye!
Goodbye, my friend.
Bye, Palmita!
See you
See you!
See you later.
See you soon
Farewell
Good night
Good night, Palmita.
I have to go.
I have to go now.
I must go. Goodbye!
OK, bye!
OK, goodbye.
Until next time!
Thanks, bye!
Thank you and goodbye.
""",
    "shanty": """
Sing me a shanty
Sing me a shanty!
Sing me a shanty, please.
Sing a shanty.
Sing a shanty for me
Sing the shanty.
Sing us a shanty!
Sing a sea shanty.
Sing me a song.
Sing a song, please.
Sing something.
Recite the shanty.
Recite the shanty, please.
Recite a shanty for me.
Can you sing?
Can you sing a shanty?
Can you sing me a song?
Could you sing a shanty for us?
Would you sing me a shanty?
Please sing.
Please sing me a shanty.
I want to hear a shanty.
I would like to hear the shanty.
Let me hear a shanty.
Let me hear you sing.
Do you know a shanty?
Do you know a song?
Give us a shanty!
A shanty, please!
shanty
""",
}

TOPICS: tuple[Topic, ...] = tuple(_FORMS)
_FORM_LISTS = {topic: forms.strip().splitlines() for topic, forms in _FORMS.items()}


def user_form(rng: random.Random, topic: Topic) -> str:
    """Return something a user says on the topic, never a form that is held out."""
    while is_held_out(form := rng.choice(_FORM_LISTS[topic])):
        continue
    return form

/* select_race: to come */
